// Package secret holds text that must not be shown.
package secret

import (
	"fmt"
	"log/slog"
)

// Text never prints: neither with fmt, nor in JSON, nor in a log. Convert it to a string where it is used.
type Text string

const redacted = "[redacted]"

// Format implements fmt.Formatter for every verb.
func (Text) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue implements slog.LogValuer.
func (Text) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so encoding/json.
func (Text) MarshalText() ([]byte, error) { return []byte(redacted), nil }
