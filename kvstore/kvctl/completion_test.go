//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hostileKeys are keys that a shell would act on, or show as something else, if it completed them as they are.
func hostileKeys() []string {
	return []string{
		"a$(touch x)1", "a`touch x`2", "a;touch x", "a|b", "a&b", "a>b", "a<b", "a b", "a\tb", "a\nb", "a'b", `a"b`, `a\b`, "a*b",
		"a?b", "a[b]", "a{b,c}", "a!b", "a#b", "a^b", "a~b", "~root", "-n", "--dir", "=ls", "a\x1b[2Jb", "a\u009bb", "a\u202eb", "a\u00a0b",
	}
}

func putKeys(t *testing.T, place, keys []string) {
	t.Helper()
	var pairs []map[string]string
	for _, key := range keys {
		pairs = append(pairs, map[string]string{"key": key, "value": "v"})
	}
	data, err := marshal(pairs)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pairs.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	succeed(t, append([]string{"bulk", "put", file}, place...)...)
}

// Only keys that mean themselves in every shell are offered.
func TestCompletionOffersOnlyPlainKeys(t *testing.T) {
	plain := []string{"a", "a,b=c", "app/x.y_z-1", "é:ü@1%+2", "日本"}
	place := []string{"--dir", t.TempDir(), "-n", "app"}
	putKeys(t, place, append(hostileKeys(), plain...))
	for _, command := range []string{"get", "delete"} {
		out := succeed(t, append(append([]string{"__complete", command}, place...), "")...)
		if got := strings.Split(out, "\n"); !slices.Equal(got, append(slices.Clone(plain), ":4", "")) {
			t.Errorf("%s: %q", command, got)
		}
	}
}

// complete in bash as a TAB does, with what it takes of the package bash-completion.
const bashTab = `
_get_comp_words_by_ref() { words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword-1]}; }
__ltrim_colon_completions() { :; }
compopt() { :; }
source <(kvctl completion bash)
COMP_WORDS=(kvctl get '') COMP_CWORD=2 COMP_TYPE=9 COMP_LINE='kvctl get ' COMP_POINT=10
__start_kvctl
printf '%s\n' "${COMPREPLY[@]}"
`

// A TAB in bash runs nothing that a key says.
func TestBashCompletionRunsNothing(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	dir, work := t.TempDir(), t.TempDir()
	putKeys(t, []string{"--dir", dir, "-n", "app"}, append(hostileKeys(), "plain:1", "plain:2"))
	cmd := command(t)
	cmd.Path, cmd.Args, cmd.Dir = bash, []string{"bash", "--norc", "-c", bashTab}, work
	cmd.Env = append(cmd.Env, "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "NEARKV_DIR="+dir, "NEARKV_NAMESPACE=app")
	r := finish(t, cmd)
	if r.stdout != "plain:1\nplain:2\n" {
		t.Errorf("%q offered; %s", r.stdout, r.stderr)
	}
	if files, err := os.ReadDir(work); err != nil || len(files) > 0 {
		t.Errorf("a key was run: %v, %v", files, err)
	}
}
