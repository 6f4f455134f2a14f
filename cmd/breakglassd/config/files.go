package config

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/breakglassd/breakglass/internal/text"
)

// OnlyOwnerWrites refuses a file that its group or others can write: they would decide what is in it. A file that is missing is
// for the reader to report. key is the key that names the file.
func OnlyOwnerWrites(key, path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: %s can be written by its group or by others (mode %04o): chmod go-w it, and look at who changed it", key,
			path, info.Mode().Perm())
	}
	return nil
}

// ReadSecret reads a secret from a file that no other user can read. The secret is never part of an error, and the
// type keeps it out of every output. A group may read the file: that is how systemd and Kubernetes hand out credentials. key is
// the key that names the file.
func ReadSecret(key, path string) (text.Secret, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	if info.Mode().Perm()&0o027 != 0 {
		return "", fmt.Errorf("%s: %s can be read by others or written by its group (mode %04o): chmod 0600 it, and think about replacing the "+
			"secret", key, path, info.Mode().Perm())
	}
	content, err := ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	read := text.Secret(bytes.TrimSpace(content))
	if read == "" {
		return "", fmt.Errorf("%s: %s is empty", key, path)
	}
	return read, nil
}

// maxFile bounds every file that is read whole.
const maxFile = 1 << 20

// ReadFile reads a file that is not longer than a mebibyte.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes: is it the right file?", path, maxFile)
	}
	return text, nil
}
