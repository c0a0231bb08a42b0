package client

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/noipchat/noipchat/daemon/message"
)

// Search is a search for words, in the language of SQLite's FTS5. ParseSearch
// makes it; "" is none.
type Search string

const (
	maxSearch      = 1024 // bytes
	maxSearchWords = 64
)

// searchPhrase is what is between two quotes, or a word without.
var searchPhrase = regexp.MustCompile(`"([^"]*)"?(\*)?|([^\s\pZ"]+)`)

// ParseSearch reads what a person types: words, all of which a text must have, in
// any order; "in double quotes" words that follow each other; and with an
// asterisk, as in din*, words that begin so. Case and accents make no difference.
// All else is no part of a word, so nothing of FTS5's own language gets through.
func ParseSearch(s string) (Search, error) {
	if len(s) > maxSearch {
		return "", fmt.Errorf("a search has at most %d bytes, not %d", maxSearch, len(s))
	}
	var phrases []string
	for _, m := range searchPhrase.FindAllStringSubmatch(strings.ToValidUTF8(s, " "), -1) {
		words, begin := m[1], m[2] != ""
		if m[3] != "" {
			words, begin = strings.CutSuffix(m[3], "*")
		}
		// To FTS5 all but letters and digits is nothing, and a phrase of nothing is found nowhere.
		if !strings.ContainsFunc(words, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }) {
			continue
		}
		phrase := `"` + strings.ReplaceAll(words, "\x00", " ") + `"` // it would take a zero for the end
		if begin {
			phrase += "*"
		}
		phrases = append(phrases, phrase)
	}
	switch {
	case len(phrases) == 0:
		return "", errors.New("there is no word in it")
	case len(phrases) > maxSearchWords:
		return "", fmt.Errorf("a search has at most %d words, not %d", maxSearchWords, len(phrases))
	}
	return Search(strings.Join(phrases, " ")), nil
}

// with limits a search to what was written to somebody, or by him.
func (s Search) with(who message.Address) string {
	match := "body : (" + string(s) + ")"
	if who != "" {
		match += ` AND who : "` + addressWord.Replace(string(who)) + `"`
	}
	return match
}

// addressWord makes one word of an address: what FTS5 would take for the end of
// one becomes a character for private use, which it takes for a letter. The view
// worded does the same.
var addressWord = strings.NewReplacer("@", "\ue000", ".", "\ue001", "-", "\ue002")
