// Package kvstoretest helps to test programs that use a kvstore.Store: with the
// real store and the real server, in virtual time.
//
// Run runs a test in a bubble in which an hour's TTL passes in no time. Server
// is a server whose connections can be cut, to see what the program does
// without its log.
package kvstoretest
