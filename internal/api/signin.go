package api

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"

	"github.com/breakglassd/breakglass/internal/policy"
)

// How long things live, and how many of them there can be. The numbers bound memory (a sign-in is under 500 bytes) and are
// far above what an organisation's worst night needs.
const (
	challengeLife = 2 * time.Minute  // a person must find and touch a hardware key
	signInIdle    = 15 * time.Minute // without use
	signInLife    = time.Hour        // at the latest
	maxSignIns    = 1024
	maxPerKey     = 16 // sign-ins of one key: as many terminals
	maxUsed       = 64 // challenges used by one key within challengeLife: four times its sign-ins
	maxOffered    = 32 // keys in an agent; ssh servers stop far earlier
	maxPublicKey  = 4 << 10
)

// signIns is who is signed in. Nothing of it survives a restart: people sign in again. Challenges are not stored: each
// carries its own expiry and MAC, so that asking for millions of them costs no memory. Those that were used are stored
// until they expire, which takes a good signature.
type signIns struct {
	mac [32]byte // key of the challenges' MACs

	mu   sync.Mutex                      // guards the fields below; held for map operations only
	used map[string]map[string]time.Time // by fingerprint, so that no person can use up another's
	live map[[sha256.Size]byte]*signIn   // by hash of the token: a read of this memory gives no token
}

// signIn is one signed-in key. Its fields but used and polls never change.
type signIn struct {
	person string
	key    string // SHA256:… fingerprint
	until  time.Time
	used   time.Time // last use; guarded by signIns.mu
	polls  int       // long polls now; guarded by signIns.mu
	rate   *rate.Limiter
}

func newSignIns() *signIns {
	s := &signIns{used: map[string]map[string]time.Time{}, live: map[[sha256.Size]byte]*signIn{}}
	rand.Read(s.mac[:])
	return s
}

const challengeNonce, challengeSize = 16, 16 + 8 + sha256.Size

// challenge makes a challenge: nonce, expiry and MAC.
func (s *signIns) challenge(now time.Time) (string, time.Time) {
	b := make([]byte, challengeNonce, challengeSize)
	rand.Read(b)
	until := now.Add(challengeLife).Truncate(time.Second)
	b = binary.BigEndian.AppendUint64(b, uint64(until.Unix()))
	return base64.RawURLEncoding.EncodeToString(append(b, s.sum(b)...)), until
}

func (s *signIns) sum(b []byte) []byte {
	m := hmac.New(sha256.New, s.mac[:])
	m.Write(b)
	return m.Sum(nil)
}

// checkChallenge reports whether the challenge is one of ours and has not expired.
func (s *signIns) checkChallenge(text string, now time.Time) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != challengeSize {
		return false
	}
	body := b[:challengeNonce+8]
	if !hmac.Equal(s.sum(body), b[len(body):]) {
		return false
	}
	return now.Before(time.Unix(int64(binary.BigEndian.Uint64(body[challengeNonce:])), 0))
}

// use marks a checked challenge as used by a key of the policy. It reports false if the key used it before, or used too many
// lately. Another key may use the same one: it takes that key's own signature.
func (s *signIns) use(key, challenge string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, used := range s.used {
		maps.DeleteFunc(used, func(_ string, until time.Time) bool { return !now.Before(until) })
		if len(used) == 0 {
			delete(s.used, k)
		}
	}
	used := s.used[key]
	if _, again := used[challenge]; again || len(used) >= maxUsed {
		return false
	}
	if used == nil {
		used = map[string]time.Time{}
		s.used[key] = used
	}
	used[challenge] = now.Add(challengeLife)
	return true
}

// open begins a sign-in and returns its token. If there are too many, the oldest of the key, or of all, ends.
func (s *signIns) open(person, key string, now time.Time) (string, *signIn) {
	var raw [32]byte
	rand.Read(raw[:])
	token := base64.RawURLEncoding.EncodeToString(raw[:])
	ses := &signIn{person: person, key: key, until: now.Add(signInLife), used: now, rate: rate.NewLimiter(signInRate, signInBurst)}
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest, oldestOfKey [sha256.Size]byte
	var first, firstOfKey *signIn
	ofKey := 0
	for h, x := range s.live {
		if x.over(now) {
			delete(s.live, h)
			continue
		}
		if first == nil || x.used.Before(first.used) {
			oldest, first = h, x
		}
		if x.key == key {
			ofKey++
			if firstOfKey == nil || x.used.Before(firstOfKey.used) {
				oldestOfKey, firstOfKey = h, x
			}
		}
	}
	switch {
	case ofKey >= maxPerKey:
		delete(s.live, oldestOfKey)
	case len(s.live) >= maxSignIns:
		delete(s.live, oldest)
	}
	s.live[sha256.Sum256([]byte(token))] = ses
	return token, ses
}

func (x *signIn) over(now time.Time) bool {
	return !now.Before(x.until) || !now.Before(x.used.Add(signInIdle))
}

// find returns the sign-in of a token if it is live and its key still belongs to its person under the policy. A sign-in that
// is not is forgotten.
func (s *signIns) find(token string, p *policy.Policy, now time.Time) (*signIn, bool) {
	h := sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	x, ok := s.live[h]
	if !ok {
		return nil, false
	}
	if owner, known := p.PersonByKey(x.key); x.over(now) || !known || owner != x.person {
		delete(s.live, h)
		return nil, false
	}
	x.used = now
	return x, true
}

func (s *signIns) close(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, sha256.Sum256([]byte(token)))
}

// poll counts a long poll of the sign-in and reports false if it has too many already. done ends it.
func (s *signIns) poll(x *signIn) (done func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.polls >= maxPollsPerSignIn {
		return nil, false
	}
	x.polls++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		x.polls--
	}, true
}

// The rates of requests. People type a few commands a minute; a CLI that waits asks once in 50 s. Strangers share an address
// behind a proxy or a company's gateway.
const (
	signInRate    = 10
	signInBurst   = 60
	strangerRate  = 5
	strangerBurst = 60
	maxAddresses  = 8192 // in each of two generations
)

// addressLimits limits by client address, in bounded memory: when one generation is full the one before is forgotten, and
// with it the debts of addresses that were quiet since.
type addressLimits struct {
	mu            sync.Mutex // guards the maps
	young, before map[source]*rate.Limiter
}

// source is whose calls are counted together: those of an address, or those for one known key from there. People behind one gateway
// so have a bucket each for signing in, and strangers there cannot use it up without knowing a key of theirs.
type source struct {
	addr netip.Addr
	key  string // fingerprint; empty: everything else
}

func newAddressLimits() *addressLimits {
	return &addressLimits{young: map[source]*rate.Limiter{}}
}

func (l *addressLimits) allow(remote, key string, now time.Time) bool {
	addr := netip.Addr{} // all that cannot be parsed share one
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		addr = ap.Addr().Unmap()
		if addr.Is6() { // one host has a whole /64
			p, err := addr.WithZone("").Prefix(64)
			if err == nil {
				addr = p.Addr()
			}
		}
	}
	who := source{addr, key}
	l.mu.Lock()
	defer l.mu.Unlock()
	lim, ok := l.young[who]
	if !ok {
		if lim, ok = l.before[who]; !ok {
			lim = rate.NewLimiter(strangerRate, strangerBurst)
		}
		if len(l.young) >= maxAddresses {
			l.before, l.young = l.young, map[source]*rate.Limiter{}
		}
		l.young[who] = lim
	}
	return lim.AllowN(now, 1)
}

// parsePublicKey reads one public key in authorized_keys form, with nothing before or after it but a comment.
func parsePublicKey(text string) (ssh.PublicKey, bool) {
	if len(text) > maxPublicKey {
		return nil, false
	}
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil || len(options) > 0 || len(bytes.TrimSpace(rest)) > 0 {
		return nil, false
	}
	return key, true
}

// bearer returns the token of an Authorization header.
func bearer(header string) string {
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
