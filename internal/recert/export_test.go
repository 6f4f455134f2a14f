package recert

import (
	"io"
	"maps"

	"golang.org/x/mod/sumdb/note"
)

// Sign lists and signs the files of a bundle again.
func Sign(b Bundle, campaign string, signer note.Signer) (Bundle, error) {
	files := maps.Clone(b)
	delete(files, fileManifest)
	delete(files, fileNote)
	manifest := files.manifest()
	signed, err := note.Sign(&note.Note{Text: noteText(campaign, manifest, len(files))}, signer)
	files[fileManifest], files[fileNote] = manifest, signed
	return files, err
}

// Rendering is the number of the form in which reports are written.
const Rendering = rendering

// Rendered are the files that are made from a report.
func (r *Report) Rendered() map[string]func(io.Writer) error { return r.renderers() }
