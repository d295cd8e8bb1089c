// Package examples holds the README to what the code is.
package examples

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = ".."

func readme(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The code of the README is the body of ExampleOpen, whose output is checked.
func TestQuickstart(t *testing.T) {
	_, after, found := strings.Cut(readme(t), "```go\n")
	shown, _, closed := strings.Cut(after, "```\n")
	if !found || !closed {
		t.Fatal("README.md has no Go code")
	}
	if want := exampleBody(t, filepath.Join(root, "kvstore", "example_test.go"), "ExampleOpen"); shown != want {
		t.Errorf("README.md shows:\n%s\nExampleOpen is:\n%s", shown, want)
	}
}

// exampleBody returns the statements of a function as the README shows them:
// not indented, and without the comment that says the output.
func exampleBody(t *testing.T, file, name string) string {
	t.Helper()
	fset := token.NewFileSet()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.ParseFile(fset, file, source, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Name.Name != name {
			continue
		}
		body := source[fset.Position(f.Body.Lbrace).Offset+1 : fset.Position(f.Body.Rbrace).Offset]
		code, _, found := bytes.Cut(body, []byte("\t// Output:"))
		if !found {
			t.Fatalf("the output of %s is not checked", name)
		}
		formatted, err := format.Source(bytes.TrimSpace(code))
		if err != nil {
			t.Fatal(err)
		}
		return string(formatted) + "\n"
	}
	t.Fatalf("%s has no %s", file, name)
	return ""
}

// Every test, fuzz target and example that a text names exists.
func TestNamedTestsExist(t *testing.T) {
	exists := testNames(t)
	name := regexp.MustCompile("`((?:Test|Fuzz|Example)[A-Z]\\w*)`")
	for _, file := range []string{"README.md", "CONTRIBUTING.md"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		named := name.FindAllSubmatch(text, -1)
		if len(named) == 0 {
			t.Errorf("%s names no test", file)
		}
		for _, m := range named {
			if !exists[string(m[1])] {
				t.Errorf("%s names %s, which does not exist", file, m[1])
			}
		}
	}
}

// testNames returns the names of all tests of all modules.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w+)\(`)
	names := make(map[string]bool)
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(source, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// What the README links to is there.
func TestLinks(t *testing.T) {
	links := regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(readme(t), -1)
	if len(links) == 0 {
		t.Error("README.md has no link")
	}
	for _, m := range links {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Errorf("README.md links to %s: %v", m[1], err)
		}
	}
}

func TestREADMEIsShort(t *testing.T) {
	if lines := strings.Count(readme(t), "\n"); lines > 250 {
		t.Errorf("README.md has %d lines, at most 250 are wanted", lines)
	}
}
