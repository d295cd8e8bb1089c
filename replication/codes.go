package replication

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// What a server answers, and what that means here. This file is the only place
// where that is decided. An answer has a code (errors.json of nats-server). Each
// code stands for one of our errors, and the error decides whether it helps to
// try again: see Lasting.

// refusal is one error code of the server.
type refusal struct {
	code jetstream.ErrorCode
	name string // the server's constant
	err  error  // what it is here
}

// refusals has the codes that a Log can meet and that mean something else than
// their HTTP-like status says. The codes that are not in it are those of what we
// never ask for, and of errors of other clients; byStatus decides about them.
var refusals = []refusal{
	// The server, or the cluster, is on its way: it passes.
	{10004, "JSClusterIncompleteErr", ErrUnavailable},
	{10005, "JSClusterNoPeersErrF", ErrUnavailable}, // as long as not all servers of a cluster are there
	{10006, "JSClusterNotActiveErr", ErrUnavailable},
	{10007, "JSClusterNotAssignedErr", ErrUnavailable},
	{10008, "JSClusterNotAvailErr", ErrUnavailable},
	{10009, "JSClusterNotLeaderErr", ErrUnavailable},
	{10035, "JSNoAccountErr", ErrUnavailable}, // it may still be on its way from the resolver
	{10118, "JSStreamOfflineErr", ErrUnavailable},
	{10119, "JSConsumerOfflineErr", ErrUnavailable},
	{10163, "JSStreamExpectedLastSeqPerSubjectNotReady", ErrUnavailable},

	// What we were using is gone. The next attempt makes it again.
	{10013, "JSConsumerNameExistErr", ErrUnavailable},
	{10014, "JSConsumerNotFoundErr", ErrUnavailable},
	{10105, "JSConsumerExistingActiveErr", ErrUnavailable},
	{10148, "JSConsumerAlreadyExists", ErrUnavailable},
	{10158, "JSStreamDuplicateMessageConflict", ErrUnavailable},
	{10176, "JSAtomicPublishIncompleteBatchErr", ErrUnavailable},
	{10208, "JSBatchPublishUnknownBatchIDErr", ErrUnavailable},
	{10226, "JSStreamReconfigureInProgressErr", ErrUnavailable},

	// The server has too much to do: it passes.
	{10167, "JSStreamTooManyRequests", ErrOverloaded},
	{10210, "JSAtomicPublishTooManyInflight", ErrOverloaded},
	{10211, "JSBatchPublishTooManyInflight", ErrOverloaded},

	// Answers to what was asked.
	{10037, "JSNoMessageFoundErr", ErrNoRecord},
	{10059, "JSStreamNotFoundErr", ErrNoStream},
	{10071, "JSStreamWrongLastSequenceErrF", ErrWrongRevision},
	{10164, "JSStreamWrongLastSequenceConstantErr", ErrWrongRevision},

	// There is no room, until somebody makes some.
	{10002, "JSAccountResourcesExceededErr", ErrNoSpace},
	{10023, "JSInsufficientResourcesErr", ErrNoSpace},
	{10028, "JSMemoryResourcesExceededErr", ErrNoSpace},
	{10047, "JSStorageResourcesExceededErr", ErrNoSpace},
	{10077, "JSStreamStoreFailedF", ErrNoSpace},

	// The record does not fit.
	{10054, "JSStreamMessageExceedsMaximumErr", ErrTooLarge},
	{10097, "JSStreamHeaderExceedsMaximumErr", ErrTooLarge},
	{10199, "JSAtomicPublishTooLargeBatchErrF", ErrTooLarge},

	// The operator has set a number, and it is reached.
	{10026, "JSMaximumConsumersLimitErr", ErrLimit},
	{10027, "JSMaximumStreamsLimitErr", ErrLimit},
	{10053, "JSStreamLimitsErrF", ErrLimit},
	{10120, "JSNoLimitsErr", ErrLimit},
	{10122, "JSStreamMaxStreamBytesExceeded", ErrLimit},
	{10153, "JSConsumerInactiveThresholdExcess", ErrLimit},

	// The stream, the account or the server is not made for it.
	{10010, "JSClusterRequiredErr", ErrUnsupported},
	{10036, "JSClusterUnSupportFeatureErr", ErrUnsupported},
	{10039, "JSNotEnabledForAccountErr", ErrUnsupported},
	{10052, "JSStreamInvalidConfigF", ErrUnsupported},
	{10065, "JSStreamSubjectOverlapErr", ErrUnsupported},
	{10074, "JSStreamReplicasNotSupportedErr", ErrUnsupported},
	{10076, "JSNotEnabledErr", ErrUnsupported},
	{10109, "JSStreamSealedErr", ErrUnsupported},
	{10113, "JSStreamMaxBytesRequired", ErrUnsupported},
	{10165, "JSMessageTTLInvalidErr", ErrUnsupported},
	{10166, "JSMessageTTLDisabledErr", ErrUnsupported},
	{10174, "JSAtomicPublishDisabledErr", ErrUnsupported},
	{10185, "JSRequiredApiLevelErr", ErrUnsupported},
	{10194, "JSStreamOfflineReasonErrF", ErrUnsupported}, // it needs a newer server
	{10195, "JSConsumerOfflineReasonErrF", ErrUnsupported},
	{10205, "JSBatchPublishDisabledErr", ErrUnsupported},
}

var refusalOf = func() map[jetstream.ErrorCode]refusal {
	m := make(map[jetstream.ErrorCode]refusal, len(refusals))
	for _, r := range refusals {
		m[r.code] = r
	}
	return m
}()

// advice says what to do about codes where that is not obvious.
var advice = map[jetstream.ErrorCode]string{
	10026: "raise max_consumers of the stream or the account, or default_max_consumers of the server",
	10027: "raise max_streams of the account, or use a namespace that exists",
	10039: "enable JetStream for the account, or set Options.Domain or Options.APIPrefix if it is in another one",
	10076: "enable JetStream on the server, or set Options.Domain or Options.APIPrefix if it is in another one",
	10113: "set Options.MaxBytes",
	10122: "set Options.MaxBytes to what the account allows for one stream",
}

// codeError returns which of our errors an error of the server is.
func codeError(api *jetstream.APIError) error {
	if r, ok := refusalOf[api.ErrorCode]; ok {
		return r.err
	}
	return byStatus(api.Code)
}

// byStatus decides about a code that refusals does not have. A 4xx says that the
// request is at fault, and the same request has the same answer; all else is the
// server's trouble, and passes.
func byStatus(status int) error {
	switch {
	case status == 429:
		return ErrOverloaded
	case 400 <= status && status < 500:
		return ErrRefused
	}
	return ErrUnavailable
}

// apiError translates an error reply of the server.
func apiError(err error, stream string) error {
	var api *jetstream.APIError
	if je, ok := errors.AsType[jetstream.JetStreamError](err); ok {
		api = je.APIError()
	}
	if a, ok := errors.AsType[*jetstream.APIError](err); ok {
		api = a
	}
	if api == nil {
		return fmt.Errorf("replication: %s: %w", stream, err)
	}
	if what, ok := advice[api.ErrorCode]; ok {
		return fmt.Errorf("replication: %s: %w: %w (%s)", stream, codeError(api), api, what)
	}
	return fmt.Errorf("replication: %s: %w: %w", stream, codeError(api), api)
}

// lasting are the errors of what does not pass by itself.
var lasting = []error{ErrTooLarge, ErrUnsupported, ErrForbidden, ErrNoSpace, ErrLimit, ErrRefused, ErrDisconnected}

// Lasting reports whether err is one that does not pass by itself: somebody has to
// change the request, the configuration, the permissions or the environment first.
// To try again at once is of no use.
func Lasting(err error) bool {
	for _, target := range lasting {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// standing returns the state and the reason of a feed that err keeps from following
// its log. again: it only begins again, which is no trouble.
func standing(err error) (s State, reason string, ok bool) {
	switch {
	case err == nil, errors.Is(err, ErrClosed):
		return 0, "", false
	case errors.Is(err, errAgain):
		return Syncing, "following the log again", true
	case errors.Is(err, ErrDisconnected):
		return Stale, err.Error(), true
	case errors.Is(err, ErrNoStream), Lasting(err):
		return Degraded, err.Error(), true
	}
	return Stale, err.Error(), true
}
