package api

// ImportResult is what became of a file of audit events.
type ImportResult struct {
	Meta
	Events     int    `json:"events"`     // in it that could be read
	Kept       int    `json:"kept"`       // of our certificates, and new
	Duplicates int    `json:"duplicates"` // of our certificates, and known before
	Dropped    int    `json:"dropped"`    // of our certificates, and beyond what is kept
	Unreadable int    `json:"unreadable"`
	Digest     string `json:"digest"` // hex SHA-256 of the file
}
