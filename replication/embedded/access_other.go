//go:build !unix

package embedded

import "io/fs"

// hasOwners: here files have no owner and mode in the sense of unix. What cannot be opened is
// still found before the server starts.
const hasOwners = false

const noFollow = 0

func checkOwner(string, fs.FileInfo) error { return nil }

func checkStoreOwner(string) error { return nil }

func canWrite(string) error { return nil }

func isNoSpace(error) bool { return false }

func isQueueFull(error) bool { return false }

func ownerOf(fs.FileInfo) (int, bool) { return 0, false }
