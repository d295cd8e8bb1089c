package main

import (
	"fmt"
	"hash/fnv"
	"strings"
)

// isOurs tells whether a line or a bar shows nearkv.
func isOurs(name string) bool { return strings.HasPrefix(name, "nearkv") }

// widthOf a line: that of nearkv is to be found at once.
func widthOf(name string) float64 {
	if isOurs(name) {
		return 3
	}
	return 2
}

var (
	ours   = []string{"#0a5cd6", "#5b9bf5", "#08306b"}
	theirs = []string{"#e07b00", "#2e8b57", "#9b4dca", "#c0392b", "#7f8c8d", "#b8860b", "#16808c"}
)

// colors are chosen for the names that are shown together.
var colors = map[string]string{
	"nearkv": ours[0], "nearkv page": ours[0], "nearkv-poll": ours[0],
	"nearkv prefix": ours[1], "nearkv-watch": ours[1], "nearkv-atleast": ours[2],
	"jetstream": theirs[0], "jetstream page": theirs[0], "jetstream-watch": theirs[0],
	"jetstream prefix": theirs[3], "jetstream-loopback": theirs[3],
	"consumer": theirs[1], "consumer-poll": theirs[2],
	"ristretto": theirs[1], "otter": theirs[2], "syncmap": theirs[4], "rwmutex": theirs[4],
	"rueidis": theirs[3], "groupcache": theirs[5],
}

// colorOf gives a name the same color in every chart.
func colorOf(name string) string {
	if color, ok := colors[name]; ok {
		return color
	}
	h := fnv.New32a()
	fmt.Fprint(h, name)
	return theirs[h.Sum32()%uint32(len(theirs))]
}

// rotated turns a text upwards around its anchor.
func rotated(x, y float64) string { return fmt.Sprintf(`transform="rotate(-90 %.1f %.1f)"`, x, y) }
