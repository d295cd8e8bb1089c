package replication

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
)

// The table has the codes of the server that is in go.mod, under its names. A server
// that has more codes, or others, makes this test fail: decide about them.
func TestRefusalsAreTheServers(t *testing.T) {
	constants := map[string]server.ErrorIdentifier{
		"JSClusterIncompleteErr":                    server.JSClusterIncompleteErr,
		"JSClusterNoPeersErrF":                      server.JSClusterNoPeersErrF,
		"JSClusterNotActiveErr":                     server.JSClusterNotActiveErr,
		"JSClusterNotAssignedErr":                   server.JSClusterNotAssignedErr,
		"JSClusterNotAvailErr":                      server.JSClusterNotAvailErr,
		"JSClusterNotLeaderErr":                     server.JSClusterNotLeaderErr,
		"JSNoAccountErr":                            server.JSNoAccountErr,
		"JSStreamOfflineErr":                        server.JSStreamOfflineErr,
		"JSConsumerOfflineErr":                      server.JSConsumerOfflineErr,
		"JSStreamExpectedLastSeqPerSubjectNotReady": server.JSStreamExpectedLastSeqPerSubjectNotReady,
		"JSConsumerNameExistErr":                    server.JSConsumerNameExistErr,
		"JSConsumerNotFoundErr":                     server.JSConsumerNotFoundErr,
		"JSConsumerExistingActiveErr":               server.JSConsumerExistingActiveErr,
		"JSConsumerAlreadyExists":                   server.JSConsumerAlreadyExists,
		"JSStreamDuplicateMessageConflict":          server.JSStreamDuplicateMessageConflict,
		"JSAtomicPublishIncompleteBatchErr":         server.JSAtomicPublishIncompleteBatchErr,
		"JSBatchPublishUnknownBatchIDErr":           server.JSBatchPublishUnknownBatchIDErr,
		"JSStreamReconfigureInProgressErr":          server.JSStreamReconfigureInProgressErr,
		"JSStreamTooManyRequests":                   server.JSStreamTooManyRequests,
		"JSAtomicPublishTooManyInflight":            server.JSAtomicPublishTooManyInflight,
		"JSBatchPublishTooManyInflight":             server.JSBatchPublishTooManyInflight,
		"JSNoMessageFoundErr":                       server.JSNoMessageFoundErr,
		"JSStreamNotFoundErr":                       server.JSStreamNotFoundErr,
		"JSStreamWrongLastSequenceErrF":             server.JSStreamWrongLastSequenceErrF,
		"JSStreamWrongLastSequenceConstantErr":      server.JSStreamWrongLastSequenceConstantErr,
		"JSAccountResourcesExceededErr":             server.JSAccountResourcesExceededErr,
		"JSInsufficientResourcesErr":                server.JSInsufficientResourcesErr,
		"JSMemoryResourcesExceededErr":              server.JSMemoryResourcesExceededErr,
		"JSStorageResourcesExceededErr":             server.JSStorageResourcesExceededErr,
		"JSStreamStoreFailedF":                      server.JSStreamStoreFailedF,
		"JSStreamMessageExceedsMaximumErr":          server.JSStreamMessageExceedsMaximumErr,
		"JSStreamHeaderExceedsMaximumErr":           server.JSStreamHeaderExceedsMaximumErr,
		"JSAtomicPublishTooLargeBatchErrF":          server.JSAtomicPublishTooLargeBatchErrF,
		"JSMaximumConsumersLimitErr":                server.JSMaximumConsumersLimitErr,
		"JSMaximumStreamsLimitErr":                  server.JSMaximumStreamsLimitErr,
		"JSStreamLimitsErrF":                        server.JSStreamLimitsErrF,
		"JSNoLimitsErr":                             server.JSNoLimitsErr,
		"JSStreamMaxStreamBytesExceeded":            server.JSStreamMaxStreamBytesExceeded,
		"JSConsumerInactiveThresholdExcess":         server.JSConsumerInactiveThresholdExcess,
		"JSClusterRequiredErr":                      server.JSClusterRequiredErr,
		"JSClusterUnSupportFeatureErr":              server.JSClusterUnSupportFeatureErr,
		"JSNotEnabledForAccountErr":                 server.JSNotEnabledForAccountErr,
		"JSStreamInvalidConfigF":                    server.JSStreamInvalidConfigF,
		"JSStreamSubjectOverlapErr":                 server.JSStreamSubjectOverlapErr,
		"JSStreamReplicasNotSupportedErr":           server.JSStreamReplicasNotSupportedErr,
		"JSNotEnabledErr":                           server.JSNotEnabledErr,
		"JSStreamSealedErr":                         server.JSStreamSealedErr,
		"JSStreamMaxBytesRequired":                  server.JSStreamMaxBytesRequired,
		"JSMessageTTLInvalidErr":                    server.JSMessageTTLInvalidErr,
		"JSMessageTTLDisabledErr":                   server.JSMessageTTLDisabledErr,
		"JSAtomicPublishDisabledErr":                server.JSAtomicPublishDisabledErr,
		"JSRequiredApiLevelErr":                     server.JSRequiredApiLevelErr,
		"JSStreamOfflineReasonErrF":                 server.JSStreamOfflineReasonErrF,
		"JSConsumerOfflineReasonErrF":               server.JSConsumerOfflineReasonErrF,
		"JSBatchPublishDisabledErr":                 server.JSBatchPublishDisabledErr,
	}
	seen := make(map[jetstream.ErrorCode]bool)
	for _, r := range refusals {
		id, ok := constants[r.name]
		if !ok || uint16(id) != uint16(r.code) || server.ApiErrors[id] == nil {
			t.Errorf("%s is %d, the server has %d", r.name, r.code, id)
		}
		if seen[r.code] {
			t.Errorf("%d is there twice", r.code)
		}
		seen[r.code] = true
	}
	if len(refusals) != len(constants) {
		t.Errorf("the table has %d codes, the test %d", len(refusals), len(constants))
	}
	const known, highest = 227, 10228
	most := server.ErrorIdentifier(0)
	for id := range server.ApiErrors {
		most = max(most, id)
	}
	if len(server.ApiErrors) != known || most != highest {
		t.Errorf("the server has %d codes up to %d, and had %d up to %d: decide about the new ones in codes.go", len(server.ApiErrors), most, known, highest)
	}
}

// A code that is not in the table is decided by its status.
func TestRefusalsByStatus(t *testing.T) {
	for status, want := range map[int]error{400: ErrRefused, 404: ErrRefused, 412: ErrRefused, 429: ErrOverloaded, 500: ErrUnavailable, 503: ErrUnavailable, 0: ErrUnavailable} {
		err := apiError(&jetstream.APIError{Code: status, ErrorCode: 19999}, "KV_test")
		if codeError(&jetstream.APIError{Code: status, ErrorCode: 19999}) != want || Lasting(err) != (want == ErrRefused) { //nolint:errorlint // the very error
			t.Errorf("%d is %v", status, err)
		}
	}
}

// Whether an error lasts follows from what it is.
func TestLasting(t *testing.T) {
	passing := []error{ErrUnavailable, ErrOverloaded, ErrNoStream, ErrUncertain, ErrWrongRevision, ErrNoRecord}
	for _, err := range passing {
		if Lasting(err) {
			t.Errorf("%v lasts", err)
		}
	}
	for _, err := range lasting {
		if !Lasting(err) {
			t.Errorf("%v passes", err)
		}
	}
}
