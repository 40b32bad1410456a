package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
)

// python spells a JSON text as Python's json.dumps does.
func python(text string) (string, error) {
	tokens := json.NewDecoder(strings.NewReader(text))
	tokens.UseNumber()
	var out bytes.Buffer
	// Of each array and object that is open, whether it is an object, and how many tokens stand in it.
	var object []bool
	var count []int
	for {
		token, err := tokens.Token()
		if errors.Is(err, io.EOF) {
			return out.String(), nil
		}
		if err != nil {
			return "", err
		}
		last := len(count) - 1
		if token == json.Delim(']') || token == json.Delim('}') {
			object, count = object[:last], count[:last]
			fmt.Fprint(&out, token)
			continue
		}
		if last >= 0 {
			switch {
			case object[last] && count[last]%2 == 1:
				out.WriteString(": ")
			case count[last] > 0:
				out.WriteString(", ")
			}
			count[last]++
		}
		switch token := token.(type) {
		case json.Delim:
			object, count = append(object, token == '{'), append(count, 0)
			fmt.Fprint(&out, token)
		case string:
			quote(&out, token)
		case json.Number:
			out.WriteString(number(token.String()))
		case nil:
			out.WriteString("null")
		default:
			fmt.Fprint(&out, token)
		}
	}
}

func quote(out *bytes.Buffer, text string) {
	short := map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\b': `\b`, '\f': `\f`}
	out.WriteByte('"')
	for _, char := range text {
		switch escape := short[char]; {
		case escape != "":
			out.WriteString(escape)
		case char >= ' ' && char <= '~':
			out.WriteRune(char)
		default:
			for _, unit := range utf16.Encode([]rune{char}) {
				fmt.Fprintf(out, `\u%04x`, unit)
			}
		}
	}
	out.WriteByte('"')
}

// quoted is a text as JSON.
func quoted(text string) string {
	var out bytes.Buffer
	quote(&out, text)
	return out.String()
}

// number is one as Python's repr writes it: an integer whole, a float in its shortest form, by an exponent from 1e16 on and
// below 1e-4.
func number(text string) string {
	if !strings.ContainsAny(text, ".eE") {
		if text == "-0" {
			return "0"
		}
		return text
	}
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return text
	}
	digits, exponent, _ := strings.Cut(strconv.FormatFloat(value, 'e', -1, 64), "e")
	if power, _ := strconv.Atoi(exponent); value != 0 && (power < -4 || power >= 16) {
		return digits + "e" + exponent
	}
	plain := strconv.FormatFloat(value, 'f', -1, 64)
	if !strings.Contains(plain, ".") {
		plain += ".0"
	}
	return plain
}
