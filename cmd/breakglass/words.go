package main

import (
	"time"

	"github.com/breakglassd/breakglass/internal/breakglass"
)

func wayWords(w breakglass.Way) string {
	out := "without a proxy of its own"
	if w.ProxyURL != "" {
		out = "through " + w.ProxyURL
	}
	if w.TLSServerName != "" {
		out += ", known as " + w.TLSServerName
	}
	return out
}

func hashWords(h string) string {
	if h == "" {
		return "none, the system's own"
	}
	return h[:min(len(h), 16)] + "…"
}

// stamp is a time for the record: UTC, to the second.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}
