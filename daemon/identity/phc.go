package identity

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Cost is what a password hash costs: argon2id (RFC 9106), version 19.
type Cost struct {
	Memory uint32 // KiB, 8*Lanes to 262144
	Passes uint32 // 1 to 16
	Lanes  uint8  // 1 to 8
}

// DefaultCost is the one that OWASP names for argon2id where memory is scarce:
// 19 MiB, two passes, one lane; 20 to 60 ms.
func DefaultCost() Cost { return Cost{Memory: 19456, Passes: 2, Lanes: 1} }

// check bounds what somebody who changed a file can make us spend.
func (c Cost) check() error {
	switch {
	case c.Lanes < 1 || c.Lanes > 8:
		return fmt.Errorf("p=%d is not 1 to 8", c.Lanes)
	case c.Passes < 1 || c.Passes > 16:
		return fmt.Errorf("t=%d is not 1 to 16", c.Passes)
	case c.Memory < 8*uint32(c.Lanes) || c.Memory > 256<<10:
		return fmt.Errorf("m=%d is not %d to %d", c.Memory, 8*c.Lanes, 256<<10)
	}
	return nil
}

const (
	saltLength = 16
	tagLength  = 32
)

// hashed is a password's hash with all that is needed to compute it again. Its
// text is in the PHC string format:
//
//	$argon2id$v=19$m=19456,t=2,p=1$<salt>$<tag>
type hashed struct {
	cost Cost
	salt [saltLength]byte
	tag  [tagLength]byte
}

var phcBase64 = base64.RawStdEncoding.Strict()

func (h hashed) String() string {
	return fmt.Sprintf("$argon2id$v=19$m=%d,t=%d,p=%d$%s$%s", h.cost.Memory, h.cost.Passes, h.cost.Lanes,
		phcBase64.EncodeToString(h.salt[:]), phcBase64.EncodeToString(h.tag[:]))
}

// parseHashed reads what String wrote and takes no other spelling. Its errors
// show nothing of salt and tag.
func parseHashed(s string) (h hashed, err error) {
	if len(s) > 200 {
		return h, errors.New("password hash: too long")
	}
	f := strings.Split(s, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != "v=19" {
		return h, errors.New("password hash: want $argon2id$v=19$m=…,t=…,p=…$salt$tag")
	}
	if h.cost, err = parseCost(f[3]); err != nil {
		return hashed{}, fmt.Errorf("password hash: %w", err)
	}
	salt, err1 := phcBase64.DecodeString(f[4])
	tag, err2 := phcBase64.DecodeString(f[5])
	if err1 != nil || err2 != nil || copy(h.salt[:], salt) != len(salt) || copy(h.tag[:], tag) != len(tag) ||
		h.String() != s { // which also finds salts and tags that are too short
		return hashed{}, errors.New("password hash: salt or tag is damaged, or something is not in its usual spelling")
	}
	return h, nil
}

func parseCost(s string) (c Cost, err error) {
	f := strings.Split(s, ",")
	if len(f) != 3 {
		return c, errors.New("want m=…,t=…,p=…")
	}
	var n [3]uint64
	for i, name := range []string{"m=", "t=", "p="} {
		digits, found := strings.CutPrefix(f[i], name)
		if !found {
			return c, fmt.Errorf("want a number after %s", name)
		}
		bits := 32
		if i == 2 {
			bits = 8
		}
		if n[i], err = strconv.ParseUint(digits, 10, bits); err != nil {
			return c, fmt.Errorf("want a number after %s", name)
		}
	}
	c = Cost{Memory: uint32(n[0]), Passes: uint32(n[1]), Lanes: uint8(n[2])}
	return c, c.check()
}
