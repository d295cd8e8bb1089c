package replication

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/nearkv/nearkv/codec"
)

var (
	// ErrNoObject says that the object store does not hold the object.
	ErrNoObject = errors.New("no such object")
	// ErrDamagedObject says that what the object store holds is not what was put there.
	ErrDamagedObject = errors.New("damaged object")
)

// Objects is the object store of a namespace, laid out as a NATS object store of
// its name: the stream OBJ_<namespace>, with chunks of 128 KiB. It holds values
// that are too large for a record. An object never changes: every value gets an
// object of its own.
//
// The stream is created with the first object. Unlike that of a standard object
// store it takes no rollup headers: whoever may write one object could wipe all.
// An object store that others have made can be used too; only objects whose names
// begin with our prefix are ever removed.
type Objects struct {
	log    *Log
	stream string
	chunks string // the subject of an object's chunks, without its name
	infos  string // the subject of an object's description, without its name
	exists atomic.Bool
}

const objectPrefix = "nearkv-"

func newObjects(l *Log) *Objects {
	return &Objects{
		log: l, stream: "OBJ_" + l.namespace,
		chunks: "$O." + l.namespace + ".C.", infos: "$O." + l.namespace + ".M.",
	}
}

// Objects returns the object store of the namespace.
func (l *Log) Objects() *Objects { return l.objects }

// newName returns a name that tells when it was made.
func (o *Objects) newName() string {
	return objectPrefix + strconv.FormatInt(time.Now().Unix(), 36) + "-" + nuid.Next()
}

// NamedAt returns when the name of an object was made, by the clock of the process
// that did. It is false for what is not an object of ours.
func NamedAt(name string) (time.Time, bool) {
	tail, ours := strings.CutPrefix(name, objectPrefix)
	seconds, _, ok := strings.Cut(tail, "-")
	n, err := strconv.ParseInt(seconds, 36, 64)
	return time.Unix(n, 0), ours && ok && err == nil
}

// infoSubject is the subject of the description of an object.
func (o *Objects) infoSubject(name string) string {
	return o.infos + base64.URLEncoding.EncodeToString([]byte(name))
}

// ensure creates the stream if there is none.
func (o *Objects) ensure(ctx context.Context) error {
	if o.exists.Load() {
		return nil
	}
	_, err := o.names(ctx, 0)
	if errors.Is(err, ErrNoStream) {
		err = o.create(ctx)
	}
	if err == nil {
		o.exists.Store(true)
	}
	return err
}

func (o *Objects) create(ctx context.Context) error {
	kept := o.log.Storage()
	_, err := o.log.newStream(ctx, jetstream.StreamConfig{
		Name:         o.stream,
		Description:  "large values of nearkv namespace " + o.log.namespace,
		Subjects:     []string{o.chunks + ">", o.infos + ">"},
		Storage:      storageType(kept.Memory),
		Replicas:     kept.Replicas,
		MaxBytes:     o.log.cfg.MaxBytes,
		MaxConsumers: -1,
		Discard:      jetstream.DiscardNew,
		AllowDirect:  true,
		AllowRollup:  false,
		Duplicates:   time.Second, // the least that it costs: we use none
		Metadata:     map[string]string{metaFormat: formatVersion},
	})
	if errors.Is(err, errNameInUse) { // somebody was faster
		return nil
	}
	return err
}

// Remove removes an object. It is no error if there is none.
func (o *Objects) Remove(ctx context.Context, name string) error {
	return errors.Join(o.purge(ctx, o.infoSubject(name)), o.purge(ctx, o.chunks+name))
}

func (o *Objects) purgeSubject() string { return o.log.api("STREAM.PURGE." + o.stream) }

// purgeRequest is for a subject of an object of ours, which needs no escapes.
func purgeRequest(subject string) []byte { return []byte(`{"filter":"` + subject + `"}`) }

func (o *Objects) purge(ctx context.Context, subject string) error {
	m, err := o.log.requests.do(ctx, o.purgeSubject(), nil, purgeRequest(subject))
	if err != nil {
		return unanswered(err)
	}
	var reply apiReply
	if err := json.Unmarshal(m.Data, &reply); err != nil {
		return fmt.Errorf("replication: purge of %s: %w", o.stream, err)
	}
	if reply.Error != nil {
		return apiError(reply.Error, o.stream)
	}
	return nil
}

// Names returns the names of all objects that are ours, also of those that are
// not complete.
func (o *Objects) Names(ctx context.Context) (names []string, err error) {
	for offset := 0; ; {
		page, err := o.names(ctx, offset)
		if errors.Is(err, ErrNoStream) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		for subject := range page.State.Subjects {
			if name := strings.TrimPrefix(subject, o.chunks); strings.HasPrefix(name, objectPrefix) {
				names = append(names, name)
			}
		}
		offset += len(page.State.Subjects)
		if len(page.State.Subjects) == 0 || offset >= page.Total {
			return names, nil
		}
	}
}

type namesPage struct {
	apiReply
	jetstream.StreamInfo
	Total int `json:"total"`
}

func (o *Objects) names(ctx context.Context, offset int) (page namesPage, err error) {
	request, err := json.Marshal(map[string]any{"subjects_filter": o.chunks + ">", "offset": offset})
	if err != nil {
		return page, err
	}
	m, err := o.log.requests.do(ctx, o.log.api("STREAM.INFO."+o.stream), nil, request)
	if err != nil {
		return page, unanswered(err)
	}
	if err := json.Unmarshal(m.Data, &page); err != nil {
		return page, fmt.Errorf("replication: info of %s: %w: %w", o.stream, ErrUnavailable, err)
	}
	if page.Error != nil {
		return page, apiError(page.Error, o.stream)
	}
	return page, nil
}

// describe makes the object one that other NATS clients can list and read.
func (o *Objects) describe(ctx context.Context, object *codec.Object, chunks int) error {
	info := jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{Name: object.Name, Opts: &jetstream.ObjectMetaOptions{ChunkSize: chunkSize}},
		Bucket:     o.log.namespace, NUID: object.Name, Size: uint64(object.Size), Chunks: uint32(chunks),
		Digest: "SHA-256=" + base64.URLEncoding.EncodeToString(object.Digest[:]),
	}
	data, err := json.Marshal(info)
	if err != nil {
		return err
	}
	m, err := o.log.requests.do(ctx, o.infoSubject(object.Name), nil, data)
	return o.stored(m, err)
}
