package kvstore

import (
	"errors"
	"maps"
	"slices"
)

// skipDamaged is what SkipDamaged makes.
type skipDamaged struct{ told func(*ValueError) }

func (d *skipDamaged) export(e *export)          { e.skip = d }
func (d *skipDamaged) read(o *readOptions) error { o.skip = d; return nil }
func (d *skipDamaged) tell(skipped map[string]*ValueError) {
	if d.told == nil {
		return
	}
	for _, key := range slices.Sorted(maps.Keys(skipped)) {
		d.told(skipped[key])
	}
}

// SkipDamaged makes Export, ExportJSON and GetAll leave out entries whose value is
// damaged (ErrDamaged), where they would otherwise fail with the first of them.
// told is called with key and revision of each, in the order of the keys, once all
// others are there, by the goroutine that called Export or GetAll. Get returns the
// error nevertheless. With a nil told they are left out without a word.
func SkipDamaged(told func(*ValueError)) interface {
	ExportOption
	ReadOption
} {
	return &skipDamaged{told}
}

// damagedValue returns the error of a damaged value, if err is one that may be skipped.
func (d *skipDamaged) damagedValue(err error) *ValueError {
	if damaged, ok := errors.AsType[*ValueError](err); ok && d != nil {
		return damaged
	}
	return nil
}
