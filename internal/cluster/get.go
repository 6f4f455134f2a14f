package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// errTooLarge says that an answer is longer than what was asked to be read.
var errTooLarge = errors.New("the answer is too large")

// get reads a path of this API server with the daemon's credential. An answer that is not a success is the *StatusError that
// client-go would make of it; one of more than most bytes is errTooLarge.
func (t *target) get(ctx context.Context, path, accept string, most int64) ([]byte, error) {
	return t.getWith(ctx, t.http, path, accept, most)
}

func (t *target) getWith(ctx context.Context, client *http.Client, path, accept string, most int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(t.rest.Host, "/")+path, nil)
	if err != nil {
		return nil, fmt.Errorf("making the request: %w", err)
	}
	req.Header.Set("Accept", accept)
	req.Header.Set("User-Agent", t.rest.UserAgent)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > most {
		return nil, errTooLarge
	}
	if resp.StatusCode/100 == 2 {
		return body, nil
	}
	status := metav1.Status{}
	if json.Unmarshal(body, &status) != nil || status.Status != metav1.StatusFailure {
		status = metav1.Status{Status: metav1.StatusFailure, Message: "it answers " + resp.Status}
	}
	status.Code = int32(resp.StatusCode)
	if status.Reason == "" {
		status.Reason = reasons[resp.StatusCode]
	}
	return nil, &apierrors.StatusError{ErrStatus: status}
}

// reasons are those of answers that do not come from an API server but from what is before it.
var reasons = map[int]metav1.StatusReason{http.StatusUnauthorized: metav1.StatusReasonUnauthorized, http.StatusForbidden: metav1.StatusReasonForbidden,
	http.StatusNotFound: metav1.StatusReasonNotFound, http.StatusGone: metav1.StatusReasonExpired}
