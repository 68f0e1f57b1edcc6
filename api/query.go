package api

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of a list. MaxLimit is what every version gives on one page, and what
// clients of this package ask for.
const (
	DefaultLimit = 50
	MaxLimit     = 200
)

// longest is the longest page that is given; who asks for more gets that, and a
// cursor to go on with.
const longest = 1000

// query is the query string, read strictly: a parameter that is not known, or
// is there twice, is an error and not a filter that silently does nothing.
type query map[string]string

func readQuery(r *http.Request, known ...string) (query, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("", "the query string is not valid")
	}
	q := query{}
	for name, list := range values {
		if !slices.Contains(known, name) {
			message := "this call takes no parameters"
			if len(known) > 0 {
				message = "there is no such parameter here; known: " + strings.Join(known, ", ")
			}
			return nil, invalid(clip(name, 100), message)
		}
		if len(list) > 1 {
			return nil, invalid(name, "the parameter is there twice")
		}
		if len(list[0]) > 1024 {
			return nil, invalid(name, "is longer than 1024 bytes")
		}
		q[name] = list[0]
	}
	return q, nil
}

// limit is 1 to longest, DefaultLimit when absent.
func (q query) limit() (int, error) {
	text, given := q["limit"]
	if !given {
		return DefaultLimit, nil
	}
	n, err := strconv.Atoi(text)
	if n < 1 || err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, invalid("limit", "must be an integer greater than zero; a page has at most "+strconv.Itoa(longest))
	}
	return min(n, longest), nil
}

// time is a time as When reads it, zero when absent.
func (q query) time(name string) (time.Time, error) {
	text, given := q[name]
	if given && text == "" {
		return time.Time{}, invalid(name, "is empty")
	}
	t, err := When(text, time.Now())
	if err != nil {
		return t, invalid(name, err.Error()+"; a + in an offset is written %2B")
	}
	return t, nil
}

// between is the range of since and until.
func (q query) between() (since, until time.Time, err error) {
	if since, err = q.time("since"); err != nil {
		return since, until, err
	}
	if until, err = q.time("until"); err != nil {
		return since, until, err
	}
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return since, until, invalid("until", "must be later than since")
	}
	return since, until, nil
}

// wait is how long the caller has time, 0 when absent.
func (q query) wait() (wait time.Duration, err error) {
	if text, given := q["wait"]; given {
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 || wait > MaxWait {
			return 0, invalid("wait", "must be a duration with its unit, up to "+MaxWait.String()+", as in 30s")
		}
	}
	return wait, nil
}

// oneOf is a parameter with a fixed set of values.
func (q query) oneOf(name string, values ...string) (string, error) {
	v, given := q[name]
	if given && !slices.Contains(values, v) {
		return "", invalid(name, "must be one of "+strings.Join(values, ", "))
	}
	return v, nil
}

// pathID is the {id} of the path. What cannot be an id of that kind is not
// looked up.
func pathID(r *http.Request, prefix, subject string) (string, error) {
	id := r.PathValue("id")
	if !strings.HasPrefix(id, prefix) || len(id) > 64 || !onlyIDChars(id) {
		return "", &Error{Status: http.StatusNotFound, Code: "not_found", Message: "there is no such " + subject + "; an id of one begins with " + prefix}
	}
	return id, nil
}

// offset is the cursor of a list that is made whole for every page of it: how many
// of its items came before.
func (q query) offset() (int, error) {
	text, given := q["cursor"]
	if !given || text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || strconv.Itoa(n) != text {
		return 0, invalid("cursor", "is not one that this list gave; start again without it")
	}
	return n, nil
}

// cut is the page of a whole list that is asked for; without a limit, all that is
// left of it.
func cut[T any](q query, list []T) (Page[T], error) {
	after, err := q.offset()
	if err != nil {
		return Page[T]{}, err
	}
	p := Page[T]{Data: append([]T{}, list[min(after, len(list)):]...)}
	if _, given := q["limit"]; !given {
		return p, nil
	}
	limit, err := q.limit()
	if err != nil {
		return p, err
	}
	if len(p.Data) > limit {
		p.Data, p.Next = p.Data[:limit], strconv.Itoa(after+limit)
	}
	return p, nil
}
