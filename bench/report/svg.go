package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
)

// canvas is an SVG picture that is being drawn, on a ground of its own: it is
// read on light and on dark pages. Lengths are in pixels.
type canvas struct {
	bytes.Buffer
	width, height float64
}

const (
	ground = "#ffffff"
	ink    = "#1f2328"
	faint  = "#d5d9de"

	fontSize = 13
)

func newCanvas(width, height float64, title string) *canvas {
	c := &canvas{width: width, height: height}
	c.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" role="img"`, width, height, width, height)
	c.printf(` font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="%d" fill="%s">`, fontSize, ink)
	c.printf("\n<title>%s</title>\n", escape(title))
	c.rect(0, 0, width, height, ground)
	c.text(16, 26, "start", `font-size="16" font-weight="600"`, title)
	return c
}

func (c *canvas) printf(format string, args ...any) { fmt.Fprintf(&c.Buffer, format, args...) }

// done returns the picture.
func (c *canvas) done() []byte {
	c.printf("</svg>\n")
	return c.Bytes()
}

func (c *canvas) rect(x, y, width, height float64, color string) {
	c.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", x, y, width, height, color)
}

// text is anchored at its start, middle or end; y is its base line.
func (c *canvas) text(x, y float64, anchor, attributes, s string) {
	c.printf(`<text x="%.1f" y="%.1f" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, attributes, escape(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, color string) {
	c.printf(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, color)
}

// polyline joins points, and marks each of them.
func (c *canvas) polyline(points [][2]float64, color string, width float64) {
	c.printf(`<polyline fill="none" stroke="%s" stroke-width="%.1f" points="`, color, width)
	for i, p := range points {
		if i > 0 {
			c.printf(" ")
		}
		c.printf("%.1f,%.1f", p[0], p[1])
	}
	c.printf("\"/>\n")
	for _, p := range points {
		c.printf(`<circle cx="%.1f" cy="%.1f" r="%.1f" fill="%s"/>`+"\n", p[0], p[1], width+1.5, color)
	}
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a Buffer takes everything
	return b.String()
}

// logScale places values on an axis whose marks are powers of ten.
type logScale struct {
	low, high float64 // decades
	from, to  float64 // pixels
}

// newLogScale has room for all values, which are positive.
func newLogScale(values []float64, from, to float64) logScale {
	s := logScale{math.Inf(1), math.Inf(-1), from, to}
	for _, v := range values {
		s.low, s.high = min(s.low, math.Floor(math.Log10(v))), max(s.high, math.Ceil(math.Log10(v)))
	}
	if s.low == s.high {
		s.high++
	}
	return s
}

func (s logScale) at(v float64) float64 {
	return s.from + (s.to-s.from)*(math.Log10(v)-s.low)/(s.high-s.low)
}

// marks are the powers of ten on the axis.
func (s logScale) marks() []float64 {
	var marks []float64
	for d := s.low; d <= s.high; d++ {
		marks = append(marks, math.Pow(10, d))
	}
	return marks
}
