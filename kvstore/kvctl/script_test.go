package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "write the golden output of the scripts anew")

// TestScripts calls kvctl in pipes. testdata/scripts are the calls, and what has
// to come of them.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "scripts"),
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", filepath.Dir(binary)+string(filepath.ListSeparator)+os.Getenv("PATH"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": scriptStatus,
			"server": scriptServer,
			"bytes":  scriptBytes,
			"cut":    scriptCut,
			"damage": scriptDamage,
		},
	})
}

// scriptStatus is exec of what has to end with a certain status.
func scriptStatus(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("status %d, not %d", got, want)
	}
}

// scriptServer starts a NATS server, and sets URL.
func scriptServer(ts *testscript.TestScript, _ bool, _ []string) {
	dir := ts.MkAbs("server")
	ts.Check(os.MkdirAll(dir, 0o700))
	s, err := startNATS(dir, "")
	ts.Check(err)
	ts.Defer(func() { stopNATS(s) })
	ts.Setenv("URL", s.ClientURL())
}

// scriptBytes writes a file of the bytes 0 to 255.
func scriptBytes(ts *testscript.TestScript, _ bool, args []string) {
	data := make([]byte, 256)
	for i := range data {
		data[i] = byte(i)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// scriptCut cuts the last byte off a file.
func scriptCut(ts *testscript.TestScript, _ bool, args []string) {
	data := ts.ReadFile(args[0])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(data[:len(data)-1]), 0o600))
}

// scriptDamage changes a file where a text is found in it.
func scriptDamage(ts *testscript.TestScript, _ bool, args []string) {
	path := strings.ReplaceAll(args[0], "/streams", "/$G/streams") // the script takes $G for a variable
	path = ts.MkAbs(strings.ReplaceAll(path, "//", "/"))
	data := []byte(ts.ReadFile(path))
	at := bytes.LastIndex(data, []byte(args[1]))
	if at < 0 {
		ts.Fatalf("%s is not in %s", args[1], path)
	}
	data[at] ^= 1
	ts.Check(os.WriteFile(path, data, 0o600))
}
