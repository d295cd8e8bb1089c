package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// format writes a value with its unit, as people do: 92.1 ns, 36.1 k/s.
func format(value float64, unit string) string {
	base, per, _ := strings.Cut(unit, "/")
	switch {
	case math.IsNaN(value) || math.IsInf(value, 0):
		return "–"
	case strings.HasSuffix(base, "sec"):
		return scaled(value) + "s"
	case base == "B":
		return fmt.Sprintf("%.1f B", value)
	case per == "s":
		return scaled(value) + "/s"
	}
	return fmt.Sprintf("%.4g", value)
}

// prefixes of units, by the power of a thousand.
var prefixes = map[int]string{-3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G"}

// scaled writes three digits and a prefix: "92.1 n".
func scaled(value float64) string {
	if value == 0 {
		return "0 "
	}
	_, digits, _ := strings.Cut(fmt.Sprintf("%.2e", value), "e") // rounds, as will be done below
	exponent, err := strconv.Atoi(digits)
	if err != nil {
		return fmt.Sprint(value)
	}
	power := min(max(int(math.Floor(float64(exponent)/3)), -3), 3)
	decimals := min(max(2-(exponent-3*power), 0), 2)
	return fmt.Sprintf("%.*f %s", decimals, value/math.Pow(1000, float64(power)), prefixes[power])
}

// formatMark writes a power of ten.
func formatMark(value float64, unit string) string {
	return strings.Replace(strings.Replace(format(value, unit), ".00 ", " ", 1), ".0 ", " ", 1)
}

// label of a unit: what benchfmt writes as p50-sec/op is a percentile of a time.
func label(unit string) string {
	switch unit {
	case "sec/op":
		return "time per operation"
	case "B/key":
		return "memory per key beyond its bytes and the value's"
	case "pause-sec/op":
		return "pause of a collection"
	case "gc-cpu-sec/op":
		return "processor time of a collection"
	}
	if p, ok := strings.CutSuffix(unit, "-sec/op"); ok {
		return p + " of the time"
	}
	return unit
}
