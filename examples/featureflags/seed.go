package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nearkv/nearkv/kvstore"
)

// pair is one element of a bulk file of Workers KV.
type pair struct {
	Key           string          `json:"key"`
	Value         string          `json:"value"`
	Expiration    int64           `json:"expiration"`     // unix seconds; 0: never
	ExpirationTTL int64           `json:"expiration_ttl"` // seconds; wins over Expiration
	Metadata      json.RawMessage `json:"metadata"`
	Base64        bool            `json:"base64"` // Value is
}

// seed writes those pairs of a bulk file whose keys are absent: a flag that was
// flipped stays so when an instance starts again, and of several instances
// that start at once one writes it. A flag that was deleted comes back. There
// is nothing to do without a name.
func seed(ctx context.Context, store *kvstore.Store, name string) error {
	if name == "" {
		return nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var pairs []pair
	if err := json.Unmarshal(data, &pairs); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, p := range pairs {
		if err := p.put(ctx, store); err != nil {
			return fmt.Errorf("%s: key %q: %w", name, p.Key, err)
		}
	}
	return nil
}

func (p *pair) put(ctx context.Context, store *kvstore.Store) error {
	opts := []kvstore.WriteOption{kvstore.IfAbsent(), kvstore.WithMetadata(p.Metadata)}
	switch expires := time.Unix(p.Expiration, 0); {
	case p.ExpirationTTL != 0:
		opts = append(opts, kvstore.WithTTL(time.Duration(p.ExpirationTTL)*time.Second))
	case p.Expiration != 0 && time.Until(expires) < time.Second:
		return nil // it has expired, or is about to
	case p.Expiration != 0:
		opts = append(opts, kvstore.WithExpiry(expires))
	}
	value := []byte(p.Value)
	if p.Base64 {
		var err error
		if value, err = base64.StdEncoding.DecodeString(p.Value); err != nil {
			return err
		}
	}
	_, err := store.Put(ctx, p.Key, value, opts...)
	if errors.Is(err, kvstore.ErrConflict) {
		return nil // it is there
	}
	return err
}
