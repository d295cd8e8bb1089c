package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

// prefix of the keys of flags; the rest is the name. A flag is on if its value
// is "true".
const prefix = "feature:"

// service holds no flag: every request asks the Store, which answers from
// memory.
type service struct {
	store        *kvstore.Store
	writeTimeout time.Duration
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /flags/{name}", s.flag)
	mux.HandleFunc("GET /stats", s.stats)
	// Not open to the world: a service that is would put its authentication here.
	mux.HandleFunc("POST /admin/flags/{name}/flip", s.flip)
	return mux
}

// page lists the features that are on, one a line.
func (s *service) page(w http.ResponseWriter, r *http.Request) {
	var on strings.Builder
	for key, err := range s.store.Keys(prefix) {
		if err != nil {
			fail(w, err)
			return
		}
		entry, err := s.store.Get(r.Context(), key.Name)
		if errors.Is(err, kvstore.ErrNotFound) {
			continue // deleted since the loop began
		}
		if err != nil {
			fail(w, err)
			return
		}
		if isOn(entry) {
			fmt.Fprintln(&on, strings.TrimPrefix(key.Name, prefix))
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, on.String())
}

type flagState struct {
	Name     string           `json:"name"`
	On       bool             `json:"on"`
	Revision kvstore.Revision `json:"revision"`
}

func isOn(e kvstore.Entry) bool { return e.Text() == "true" }

// flag tells the state of one flag. With ?at_least=<revision>, as flip returns
// it, the answer is no older than that write, whichever instance made it.
func (s *service) flag(w http.ResponseWriter, r *http.Request) {
	var opts []kvstore.ReadOption
	if atLeast := r.FormValue("at_least"); atLeast != "" {
		revision, err := strconv.ParseUint(atLeast, 10, 64)
		if err != nil {
			http.Error(w, "at_least is not a revision", http.StatusBadRequest)
			return
		}
		opts = append(opts, kvstore.AtLeast(kvstore.Revision(revision)))
	}
	name := r.PathValue("name")
	entry, err := s.store.Get(r.Context(), prefix+name, opts...)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, flagState{name, isOn(entry), entry.Revision()})
}

func (s *service) flip(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), s.writeTimeout)
	defer cancel()
	name := r.PathValue("name")
	on, revision, err := flip(ctx, s.store, prefix+name)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, flagState{name, on, revision})
}

// flip changes a flag to what it is not, whoever else does the same at the
// same time: if the flag has changed since it was read, it is read again.
func flip(ctx context.Context, store *kvstore.Store, key string) (on bool, revision kvstore.Revision, err error) {
	for {
		entry, err := store.Get(ctx, key)
		if err != nil {
			return false, 0, err
		}
		on = !isOn(entry)
		// A Put replaces everything: what is to stay has to be given again.
		opts := []kvstore.WriteOption{kvstore.IfRevision(entry.Revision()), kvstore.WithMetadata(entry.Metadata())}
		if expires := entry.Expires(); !expires.IsZero() {
			opts = append(opts, kvstore.WithExpiry(expires))
		}
		revision, err = store.Put(ctx, key, strconv.AppendBool(nil, on), opts...)
		if !errors.Is(err, kvstore.ErrConflict) {
			return on, revision, err
		}
	}
}

// stats tells how the replica stands, and where its reads were served from.
func (s *service) stats(w http.ResponseWriter, _ *http.Request) {
	reply(w, statsReply{s.store.Status().State.String(), s.store.Stats()})
}

type statsReply struct {
	State string        `json:"state"`
	Stats kvstore.Stats `json:"stats"`
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // fails when the client is gone
}

func fail(w http.ResponseWriter, err error) {
	http.Error(w, err.Error(), cmp.Or(statusOf(err), http.StatusInternalServerError))
}

// statusOf returns 0 for what has no status of its own.
func statusOf(err error) int {
	for _, known := range []struct {
		err    error
		status int
	}{
		{kvstore.ErrNotFound, http.StatusNotFound},
		{kvstore.ErrInvalidKey, http.StatusBadRequest},
		{kvstore.ErrInvalidExpiry, http.StatusConflict}, // the flag is about to expire
		{kvstore.ErrNoSpace, http.StatusInsufficientStorage},
		{kvstore.ErrUnavailable, http.StatusServiceUnavailable},
		{kvstore.ErrOverloaded, http.StatusServiceUnavailable},
		{kvstore.ErrIndeterminate, http.StatusServiceUnavailable},
		{kvstore.ErrStale, http.StatusServiceUnavailable},
		{kvstore.ErrClosed, http.StatusServiceUnavailable},
	} {
		if errors.Is(err, known.err) {
			return known.status
		}
	}
	return 0
}
