package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/noipchat/noipchat/daemon/durable"
	"github.com/noipchat/noipchat/daemon/message"
)

// Invite is an invitation that is open: somebody who shows its token may become a
// user. The token itself is not kept, only its SHA-256.
type Invite struct {
	ID      string // 8 hex digits, for RevokeInvite
	User    string // the only name that it is good for; empty: any
	Created time.Time
	Expires time.Time
	Uses    int // left, at least 1

	hash [32]byte
}

// InviteOptions are what an invitation is good for. A zero field means its default.
type InviteOptions struct {
	User     string        // default: any name
	ValidFor time.Duration // default 7 days, at most a year; by this server's clock
	Uses     int           // default 1, at most 1,000; one where User is given
}

const (
	maxInvites  = 1000
	maxUses     = 1000
	maxValidity = 366 * 24 * time.Hour
	tokenLength = 26 // characters: 128 bits in base32
)

// Invite makes an invitation and returns its token: 26 characters a-z 2-7, which
// are shown to nobody again.
func (u *Users) Invite(o InviteOptions) (token string, err error) {
	if o.ValidFor == 0 {
		o.ValidFor = 7 * 24 * time.Hour
	}
	if o.Uses == 0 {
		o.Uses = 1
	}
	switch {
	case u.Mode() == Closed:
		return "", message.Refuse(message.CodeClosed, "this server takes no registrations: [register] mode is closed")
	case o.ValidFor < 0 || o.ValidFor > maxValidity:
		return "", message.Refuse(message.CodeInvalid, "an invitation is valid for at most a year")
	case o.Uses < 0 || o.Uses > maxUses:
		return "", message.Refuse(message.CodeInvalid, "an invitation has 1 to %d uses", maxUses)
	case o.User != "" && o.Uses != 1:
		return "", message.Refuse(message.CodeInvalid, "an invitation for one user has one use")
	}
	u.change.Lock()
	defer u.change.Unlock()
	if u.lost != nil {
		return "", fmt.Errorf("inviting: %w", u.lost)
	}
	if o.User != "" {
		if err := message.CheckName(o.User); err != nil {
			return "", message.Refuse(message.CodeInvalid, "%v", err)
		}
		if err := u.checkFree(o.User); err != nil {
			return "", err
		}
	}
	var secret [16]byte
	rand.Read(secret[:])
	token = base32Lower.EncodeToString(secret[:])
	i := Invite{User: o.User, Created: u.today(), Expires: u.today().Add(o.ValidFor), Uses: o.Uses}
	if i.hash, err = hashToken(token); err != nil {
		return "", err
	}
	open := u.Invites()
	if len(open) >= maxInvites {
		return "", message.Refuse(message.CodeQuota, "there are %d open invitations; revoke some", len(open))
	}
	return token, u.storeInvites(append(open, i))
}

// Invites returns the invitations that are open, oldest first.
func (u *Users) Invites() []Invite {
	now := u.o.Now()
	u.mu.RLock()
	defer u.mu.RUnlock()
	var open []Invite
	for _, i := range u.invites {
		if now.Before(i.Expires) {
			i.ID = inviteID(i.hash)
			open = append(open, i)
		}
	}
	return open
}

// inviteID names an invitation without telling its token.
func inviteID(hash [32]byte) string { return hex.EncodeToString(hash[:4]) }

// InviteID returns the ID of the invitation with this token.
func InviteID(token string) (string, error) {
	hash, err := hashToken(token)
	return inviteID(hash), err
}

// RevokeInvite makes an invitation invalid.
func (u *Users) RevokeInvite(id string) error {
	u.change.Lock()
	defer u.change.Unlock()
	open := u.Invites()
	rest := slices.DeleteFunc(slices.Clone(open), func(i Invite) bool { return i.ID == id })
	if len(rest) == len(open) {
		return message.Refuse(message.CodeInvalid, "there is no open invitation %.20q", id)
	}
	return u.storeInvites(rest)
}

// invite finds the open invitation that has this token.
func (u *Users) invite(token string) (Invite, bool) {
	hash, err := hashToken(token)
	if err != nil {
		return Invite{}, false
	}
	now := u.o.Now()
	u.mu.RLock()
	defer u.mu.RUnlock()
	for _, i := range u.invites {
		if i.hash == hash && now.Before(i.Expires) {
			return i, true
		}
	}
	return Invite{}, false
}

// redeem returns the invitations with one use less of the one with this token.
func redeem(invites []Invite, token string) []Invite {
	hash, _ := hashToken(token)
	var rest []Invite
	for _, i := range invites {
		if i.hash == hash {
			i.Uses--
		}
		if i.Uses > 0 {
			rest = append(rest, i)
		}
	}
	return rest
}

// hashToken refuses what no token looks like.
func hashToken(token string) (hash [32]byte, err error) {
	b, err := base32Lower.DecodeString(token)
	if err != nil || len(token) != tokenLength || base32Lower.EncodeToString(b) != token {
		return hash, fmt.Errorf("an invitation is %d characters a-z and 2-7", tokenLength)
	}
	return sha256.Sum256([]byte(token)), nil
}

// storeInvites writes the invitations and makes them the ones in force. The
// caller holds change.
func (u *Users) storeInvites(invites []Invite) error {
	r := invitesRecord{Schema: schema, Invites: make([]inviteRecord, len(invites))}
	for n, i := range invites {
		r.Invites[n] = inviteRecord{Hash: hex.EncodeToString(i.hash[:]), User: i.User, Created: i.Created, Expires: i.Expires, Uses: i.Uses}
	}
	b, err := formatJSON(r)
	if err == nil {
		err = durable.WriteFile(u.invitesPath(), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("storing invitations: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.invites = invites
	return nil
}

// invitesRecord is invites.json.
type invitesRecord struct {
	Schema  int            `json:"schema"`
	Invites []inviteRecord `json:"invites"`
}

type inviteRecord struct {
	Hash    string    `json:"hash"` // SHA-256 of the token, hex
	User    string    `json:"user,omitempty"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"` // left
}

func parseInvites(b []byte) ([]Invite, error) {
	var r invitesRecord
	if err := parseJSON(b, &r); err != nil {
		return nil, err
	}
	if r.Schema != schema {
		return nil, fmt.Errorf("schema %d is not known", r.Schema)
	}
	var invites []Invite
	for n, ir := range r.Invites {
		i := Invite{User: ir.User, Created: ir.Created, Expires: ir.Expires, Uses: ir.Uses}
		hash, err := hex.DecodeString(ir.Hash)
		if err == nil && len(hash) != len(i.hash) {
			err = fmt.Errorf("a hash of %d bytes", len(hash))
		}
		copy(i.hash[:], hash)
		if err == nil && ir.User != "" {
			err = message.CheckName(ir.User)
		}
		if err == nil && (ir.Uses < 1 || ir.Uses > maxUses) {
			err = fmt.Errorf("%d uses", ir.Uses)
		}
		if err != nil {
			return nil, fmt.Errorf("invitation %d: %w", n+1, err)
		}
		invites = append(invites, i)
	}
	return invites, nil
}
