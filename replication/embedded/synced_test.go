package embedded

import "testing"

// That it syncs before it acknowledges is shown by TestSyncedBeforeAck of
// kvstore, where there is strace. That it is told to is shown everywhere.
func TestSyncAlwaysIsPassedOn(t *testing.T) {
	for _, want := range []bool{false, true} {
		s, err := Start(t.Context(), Options{Dir: t.TempDir(), SyncAlways: want})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.nats.JetStreamConfig().SyncAlways; got != want {
			t.Errorf("SyncAlways is %v, not %v", got, want)
		}
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
	}
}
