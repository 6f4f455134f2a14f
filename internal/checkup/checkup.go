// Package checkup is one line of what a check of the daemon's own surroundings looked at: Vault, the clusters, this machine.
package checkup

// A Level grades a line.
type Level string

// The levels. An Error means that something does not work, or that more is possible than what the daemon needs.
const (
	OK    Level = "ok"
	Warn  Level = "warn"
	Error Level = "error"
)

// A Line is one thing that was looked at, and what was found.
type Line struct {
	Level   Level
	Code    string // stable; empty where the caller knows what it asked for
	Subject string // where; empty where the caller knows it
	Text    string // a sentence for people, which may end with what to do
	Next    string // what to do, where that is not at the end of Text
}
