package text

import (
	"fmt"
	"log/slog"
)

// A Secret never prints: neither with fmt, nor in JSON, nor in a log. Convert it to a string where it is used.
type Secret string

const redacted = "[redacted]"

// Format implements fmt.Formatter for every verb.
func (Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, and so encoding/json.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
