package codec

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// ErrExpands is returned by the codecs MsgPack and JSON for a value that would take out of proportion more memory
// than its encoding: more than 64 MiB and 32 bytes for each byte of it.
var ErrExpands = errors.New("value needs too much memory")

// A few bytes can stand for much memory: a nil for a struct, two brackets for a map. What decoding may need at one time
// is 64 MiB and 32 bytes for each byte of the data. An honest []any has 16 for a nil, small maps of small numbers
// have about 20. Growing slices copies, so that all that is allocated, one after the other, can be three times as much.
const (
	expandSpare  = 64 << 20
	expandFactor = 32
)

// budget is the memory that is left for decoding a value.
type budget struct{ left, size int64 }

func budgetOf(data []byte) budget {
	return budget{expandSpare + expandFactor*int64(len(data)), int64(len(data))}
}

// spend takes n times size. n is not more than there are bytes of data.
func (b *budget) spend(n, size int64) error {
	if size > 0 && n > b.left/size {
		return fmt.Errorf("%w: %d bytes of data would become more than %d", ErrExpands, b.size, expandSpare+expandFactor*b.size)
	}
	b.left -= n * size
	return nil
}

// layout says what is allocated for values that are decoded into one Go type.
type layout struct {
	kind  reflect.Kind // Invalid: nothing is known of it, as it decodes itself
	size  int64
	elem  *layout // of a pointer, a slice, an array, a map, an any
	key   *layout // of a map
	least int64   // what a slice or a pointer in one byte of data costs, at most, in all types that can be reached from here

	fields map[string]*layout // of a struct, by the names that data has for them
	order  []*layout          // the same, as an array has them: those of an embedded struct in its place
	inner  int64              // what is allocated with the struct: others that it embeds by pointer
}

// dialect is what the formats differ in.
type dialect struct {
	tag     string
	opaque  []reflect.Type      // what decodes itself
	fold    func(string) string // names that are the same; nil: only equal ones
	layouts sync.Map            // reflect.Type to *layout
}

var (
	msgPackDialect = dialect{tag: "msgpack", opaque: []reflect.Type{
		reflect.TypeFor[msgpack.CustomDecoder](), reflect.TypeFor[msgpack.Unmarshaler](),
		reflect.TypeFor[encoding.BinaryUnmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler](),
	}}
	jsonDialect = dialect{
		tag: "json", fold: func(s string) string { return strings.ToLower(strings.ToUpper(s)) },
		opaque: []reflect.Type{reflect.TypeFor[json.Unmarshaler](), reflect.TypeFor[encoding.TextUnmarshaler]()},
	}
)

var timeType = reflect.TypeFor[time.Time]()

// layoutOf returns the layout of T. It is made once for each type.
func layoutOf[T any](d *dialect) *layout {
	t := reflect.TypeFor[T]()
	if l, ok := d.layouts.Load(t); ok {
		return l.(*layout)
	}
	b := layoutBuilder{dialect: d, made: make(map[reflect.Type]*layout)}
	l := b.layout(t)
	least := int64(0)
	for _, each := range b.made {
		least += each.cost()
	}
	root := *l // of its own, as others of the same type are part of it
	root.least = least
	d.layouts.Store(t, &root)
	return &root
}

// harmless reports whether data is too short to need more than the budget, whatever is in it: most is.
func (l *layout) harmless(data []byte) bool {
	return int64(len(data)) <= (expandSpare+expandFactor*int64(len(data)))/max(l.least, 1)
}

// cost is what a byte of data can cost in this layout, without what is in it.
func (l *layout) cost() int64 {
	switch l.kind {
	case reflect.Map:
		return l.mapCost(1)
	case reflect.Slice:
		return sliceHeader + growth*l.elem.size
	case reflect.Pointer:
		return l.elem.size + smallest
	case reflect.Interface:
		return sliceHeader + growth*l.size
	}
	return l.inner + smallest
}

const (
	smallest    = 16 // what allocations are rounded up by, and more
	sliceHeader = 32
	growth      = 3 // of a slice: what it has, what it is copied to, and the spare room of that
	mapHeader   = 64
	mapGroup    = 8   // slots of a map of up to 8
	mapInline   = 128 // bytes of a key or an element that is stored in its slot
)

// mapCost is the memory of a map of n pairs, without what its strings and slices refer to.
func (l *layout) mapCost(n int64) int64 {
	slot, beside := int64(1), l.key.size+l.elem.size+2*smallest // they are made outside of the map first
	for _, size := range []int64{l.key.size, l.elem.size} {
		if size > mapInline {
			slot, beside = slot+8, beside+size
		} else {
			slot += size
		}
	}
	if n <= mapGroup {
		return mapHeader + mapGroup*slot + n*beside
	}
	return mapHeader + n*(growth*slot+beside)
}

type layoutBuilder struct {
	*dialect
	made map[reflect.Type]*layout
}

func (b *layoutBuilder) layout(t reflect.Type) *layout {
	if l, ok := b.made[t]; ok {
		return l
	}
	l := &layout{size: int64(t.Size())}
	b.made[t] = l // before what is inside, which may refer to it
	if b.decodesItself(t) {
		return l
	}
	l.kind = t.Kind()
	switch l.kind {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		l.elem = b.layout(t.Elem())
	case reflect.Map:
		l.key, l.elem = b.layout(t.Key()), b.layout(t.Elem())
	case reflect.Interface: // whose maps are map[string]any, and arrays []any
		l.elem = b.layout(reflect.TypeFor[map[string]any]())
	case reflect.Struct:
		l.fields = make(map[string]*layout)
		b.addFields(l, t, nil)
		l.order = b.inOrder(t, nil)
	}
	return l
}

func (b *layoutBuilder) decodesItself(t reflect.Type) bool {
	for _, i := range b.opaque {
		if t.Kind() != reflect.Interface && (t.Implements(i) || reflect.PointerTo(t).Implements(i)) {
			return t.Kind() != reflect.Pointer || !reflect.PointerTo(t.Elem()).Implements(i) // what it points at does
		}
	}
	return t == timeType
}

// addFields adds the fields of t, which is the struct of l or embedded in it. Those further out come first.
func (b *layoutBuilder) addFields(l *layout, t reflect.Type, outer []reflect.Type) {
	var embedded []reflect.Type
	for field := range t.Fields() {
		name, rest, _ := strings.Cut(field.Tag.Get(b.tag), ",")
		name = strings.Trim(name, "'")
		if name == "-" && rest == "" || !field.IsExported() && !field.Anonymous {
			continue
		}
		if name == "" {
			name = field.Name
		}
		inside := b.layout(field.Type)
		b.addField(l, name, inside)
		if _, alias, ok := strings.Cut(rest, "alias:"); ok {
			alias, _, _ = strings.Cut(alias, ",")
			b.addField(l, strings.Trim(alias, "'"), inside)
		}
		if field.Anonymous {
			embedded = append(embedded, field.Type)
		}
	}
	for _, e := range embedded {
		b.embed(l, e, append(outer[:len(outer):len(outer)], t))
	}
}

func (b *layoutBuilder) addField(l *layout, name string, inside *layout) {
	if b.fold != nil {
		name = b.fold(name)
	}
	if _, ok := l.fields[name]; !ok {
		l.fields[name] = inside
	}
}

func (b *layoutBuilder) embed(l *layout, t reflect.Type, outer []reflect.Type) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
		l.inner += int64(t.Size())
	}
	if t.Kind() == reflect.Struct && !slices.Contains(outer, t) {
		b.addFields(l, t, outer)
	}
}

// inOrder returns the layouts of the fields of t as they are in an array.
func (b *layoutBuilder) inOrder(t reflect.Type, outer []reflect.Type) (order []*layout) {
	outer = append(outer[:len(outer):len(outer)], t)
	for field := range t.Fields() {
		embedded := field.Type
		if embedded.Kind() == reflect.Pointer {
			embedded = embedded.Elem()
		}
		name, _, _ := strings.Cut(field.Tag.Get(b.tag), ",")
		switch {
		case name == "-" || !field.IsExported() && !field.Anonymous:
		case field.Anonymous && embedded.Kind() == reflect.Struct && !b.decodesItself(embedded) && !slices.Contains(outer, embedded):
			order = append(order, b.inOrder(embedded, outer)...)
		default:
			order = append(order, b.layout(field.Type))
		}
	}
	return order
}

// pointed spends what the pointers of a layout cost that lead to a value, and returns the layout of what they point at.
func (l *layout) pointed(b *budget) (*layout, error) {
	for l != nil && l.kind == reflect.Pointer {
		if err := b.spend(1, l.elem.size+smallest); err != nil {
			return nil, err
		}
		l = l.elem
	}
	return l, nil
}

// at returns the layout of an element of an array.
func (l *layout) at(i int64) *layout {
	switch {
	case l == nil:
	case l.kind == reflect.Interface:
		return l
	case l.kind == reflect.Slice, l.kind == reflect.Array:
		return l.elem
	case l.kind == reflect.Struct && i < int64(len(l.order)):
		return l.order[i]
	}
	return nil
}

// spendArray spends what an array of n values costs, without what is in them. Slices take their room so often.
func (l *layout) spendArray(b *budget, n, often int64) error {
	switch {
	case l == nil:
		return nil
	case l.kind == reflect.Interface:
		return errors.Join(b.spend(1, sliceHeader), b.spend(n, often*l.size))
	case l.kind == reflect.Slice:
		return errors.Join(b.spend(1, sliceHeader), b.spend(n, often*l.elem.size))
	case l.kind == reflect.Struct:
		return b.spend(1, l.inner)
	}
	return nil
}

// under returns the layout of what a map has under a name.
func (l *layout) under(name []byte, d *dialect) *layout {
	switch {
	case l == nil:
	case l.kind == reflect.Interface:
		return l
	case l.kind == reflect.Map:
		return l.elem
	case l.kind == reflect.Struct && d.fold != nil:
		return l.fields[d.fold(string(name))]
	case l.kind == reflect.Struct:
		return l.fields[string(name)]
	}
	return nil
}

// keys returns the layout of the keys of a map. Those of a struct are not kept.
func (l *layout) keys() *layout {
	switch {
	case l == nil:
	case l.kind == reflect.Interface:
		return l.elem.key
	case l.kind == reflect.Map:
		return l.key
	}
	return nil
}

// spendMap spends what a map of n pairs costs, without what is in them.
func (l *layout) spendMap(b *budget, n int64) error {
	switch {
	case l == nil:
		return nil
	case l.kind == reflect.Interface:
		return b.spend(1, l.elem.mapCost(n))
	case l.kind == reflect.Map:
		return b.spend(1, l.mapCost(n))
	case l.kind == reflect.Struct:
		return b.spend(1, l.inner)
	}
	return nil
}

// spendScalar spends what a value of n bytes costs that is no array and no map.
func (l *layout) spendScalar(b *budget, n int64) error {
	if l == nil {
		return nil
	}
	switch l.kind {
	case reflect.Interface, reflect.String, reflect.Slice:
		return b.spend(1, n+smallest)
	case reflect.Invalid: // it may be recorded first
		return b.spend(growth, n+smallest)
	}
	return nil
}
