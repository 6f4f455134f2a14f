package sqlstore

import (
	"context"
	"fmt"
)

// LimitPages makes the database full at n pages, or at its present size if that
// is more.
func (s *Store) LimitPages(ctx context.Context, n int) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := s.write.ExecContext(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", n))
	return err
}
