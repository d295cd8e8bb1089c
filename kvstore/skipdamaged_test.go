package kvstore

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nearkv/nearkv/codec"
)

// forgeObject publishes a record that refers to an object that nobody has put.
func forgeObject(l *lab, key string, size int64) {
	m := nats.NewMsg("$KV." + labNamespace + "." + codec.Subject(key))
	m.Header.Set("KV-Object", (&codec.Object{Name: "nobody", Size: size}).String())
	_, err := l.js.PublishMsg(l.ctx, m)
	l.must(err)
}

// An entry whose object is missing ends an Export and a GetAll with an error that names it, or is left out and told
// if that is asked for; all others come.
func TestSkipDamaged(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		l.put(s, "a", "1")
		forgeObject(l, "forged", codec.MaxValueLen)
		l.put(s, "large", largeValue("whole", largeSize))
		l.put(s, "lost", largeValue("lost", largeSize))
		l.must(l.objectStream().Purge(l.ctx))
		l.put(s, "large", largeValue("whole", largeSize))
		l.put(s, "z", "2")
		l.must(s.Sync(l.ctx))
		keys := []string{"a", "forged", "large", "lost", "none", "z"}

		var file bytes.Buffer
		if _, err := s.Export(l.ctx, &file); err == nil || !strings.Contains(err.Error(), `"forged"`) && !strings.Contains(err.Error(), `"lost"`) || strings.Contains(err.Error(), "\n") {
			t.Error(err)
		}
		if _, err := s.GetAll(l.ctx, keys); err == nil || !strings.Contains(err.Error(), `"forged"`) {
			t.Error(err)
		}
		var told []string
		skip := SkipDamaged(func(err *ValueError) { told = append(told, err.Key) })
		wantTold := func(how string) {
			t.Helper()
			if want := []string{"forged", "lost"}; !slices.Equal(told, want) {
				t.Errorf("%s: told of %q", how, told)
			}
			told = nil
		}
		entries, err := s.GetAll(l.ctx, keys, skip)
		l.must(err)
		wantTold("GetAll")
		if len(entries) != 3 || entries["z"].Text() != "2" || entries["large"].Text() != largeValue("whole", largeSize) {
			t.Errorf("%d entries", len(entries))
		}
		if _, err := s.Get(l.ctx, "lost", SkipDamaged(nil)); err == nil {
			t.Error("Get does not fail")
		}

		file.Reset()
		info, err := s.Export(l.ctx, &file, skip)
		l.must(err)
		wantTold("Export")
		if info.Skipped != 2 || info.Keys != 3 {
			t.Errorf("%+v", info)
		}
		var json bytes.Buffer
		info, err = s.ExportJSON(l.ctx, &json, skip)
		l.must(err)
		wantTold("ExportJSON")
		if info.Skipped != 2 || info.Keys != 3 || strings.Contains(json.String(), "forged") {
			t.Errorf("%+v", info)
		}

		// What was left out does not touch what is elsewhere.
		l.put(s, "lost", "found")
		l.put(s, "a", "changed")
		_, err = s.Import(l.ctx, &file)
		l.must(err)
		l.want(s, "lost", "found")
		l.want(s, "a", "1")
	})
}

// TestSkipDamagedWhileWritten: what is damaged, mended and deleted while an export runs is told of only if it is not there
// in the end.
func TestSkipDamagedWhileWritten(t *testing.T) {
	inLab(t, func(l *lab) {
		s, _ := l.open(Options{})
		for i := range 3 {
			l.put(s, fmt.Sprint("fill", i), "x")
		}
		for _, key := range []string{"mended", "deleted", "kept"} {
			forgeObject(l, key, 100)
		}
		l.put(s, "broken", "good")
		l.must(s.Sync(l.ctx))
		var told []string
		done := false
		info, err := s.Export(l.ctx, writer(func(p []byte) (int, error) { return len(p), nil }),
			SkipDamaged(func(err *ValueError) { told = append(told, err.Key) }), OnProgress(func(int) { done = true }))
		l.must(err)
		if !done || info.Skipped != 3 {
			t.Fatalf("%+v", info)
		}

		told = nil
		e := newExport(s, []ExportOption{SkipDamaged(func(err *ValueError) { told = append(told, err.Key) })})
		var file bytes.Buffer
		e.out, err = codec.NewArchiveWriter(&file, codec.ArchiveHeader{Namespace: labNamespace})
		l.must(err)
		e.follower = &follower{}
		e.present = s.index.join(e.follower)
		l.must(e.writePresent(l.ctx, e.present, false))
		l.put(s, "mended", "well")
		l.must(s.Delete(l.ctx, "deleted"))
		forgeObject(l, "broken", 100)
		l.must(s.Sync(l.ctx))
		l.must(e.writeUntilSettled(l.ctx))
		s.index.leave(e.follower)
		l.must(e.out.Close(codec.ArchiveTrailer{Revision: uint64(e.info.Revision), Keys: uint64(e.info.Keys)}))
		e.skip.tell(e.skipped)
		if !slices.Equal(told, []string{"broken", "kept"}) {
			t.Errorf("told of %q", told)
		}
		target, _ := l.open(Options{})
		_, err = target.Import(l.ctx, &file)
		l.must(err)
		l.want(s, "mended", "well")
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
