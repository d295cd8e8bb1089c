package kvstore_test

import (
	"bytes"
	"encoding"
	"encoding/json"
	"expvar"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/nearkv/nearkv/codec"
	"github.com/nearkv/nearkv/kvstore"
)

// What is one of a few is shown by its name, and read by it.
func TestNames(t *testing.T) {
	names[kvstore.State](t, kvstore.Syncing, kvstore.Live, kvstore.Stale, kvstore.Degraded, kvstore.Closed)
	names[kvstore.Durability](t, kvstore.SurviveCrash, kvstore.SurvivePowerLoss)
	names[kvstore.EventKind](t, kvstore.EventPut, kvstore.EventDelete, kvstore.EventExpire)
	names[codec.Op](t, codec.OpPut, codec.OpDelete)
}

func names[T interface {
	comparable
	encoding.TextMarshaler
	String() string
}](t *testing.T, all ...T) {
	t.Helper()
	for _, v := range all {
		data, err := json.Marshal(map[string]T{"is": v})
		if err != nil || string(data) != `{"is":"`+v.String()+`"}` {
			t.Errorf("%v is %s in JSON, %v", v, data, err)
		}
		var back map[string]T
		if err := json.Unmarshal(data, &back); err != nil || back["is"] != v {
			t.Errorf("%s is read as %v, %v", data, back, err)
		}
		var text bytes.Buffer
		slog.New(slog.NewTextHandler(&text, nil)).Info("x", "is", v)
		slog.New(slog.NewJSONHandler(&text, nil)).Info("x", "is", v)
		if s := text.String(); !strings.Contains(s, "is="+v.String()) || !strings.Contains(s, `"is":"`+v.String()+`"`) {
			t.Errorf("%v is logged as %s", v, s)
		}
	}
	var v T
	err := json.Unmarshal([]byte(`"nonsense"`), &v)
	if err == nil || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("%T reads nonsense: %v", v, err)
	}
}

// Status and Stats are readable as JSON, and read back what they were.
func TestStatusInJSON(t *testing.T) {
	s := opened(t, "json", kvstore.Options{Dir: t.TempDir(), Durability: kvstore.SurvivePowerLoss})
	wantPut(t, s, "key", "value")
	status, stats := s.Status(), s.Stats()
	text := expvar.Func(func() any { return status }).String()
	for _, want := range []string{`"live"`, `"SurvivePowerLoss"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the status is %s, without %s", text, want)
		}
	}
	var again kvstore.Status
	if err := json.Unmarshal([]byte(text), &again); err != nil {
		t.Fatal(err)
	}
	if !again.Since.Equal(status.Since) || !again.Fresh.Equal(status.Fresh) {
		t.Errorf("the times of %s are read as %v and %v", text, again.Since, again.Fresh)
	}
	again.Since, again.Fresh = status.Since, status.Fresh
	if !reflect.DeepEqual(again, status) {
		t.Errorf("%+v is read as %+v", status, again)
	}
	data, err := json.Marshal(stats)
	var statsAgain kvstore.Stats
	if err != nil || json.Unmarshal(data, &statsAgain) != nil || statsAgain != stats {
		t.Errorf("%+v is %s, read as %+v, %v", stats, data, statsAgain, err)
	}
}
