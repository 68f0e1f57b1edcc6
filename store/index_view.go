package store

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/actpass/sidecar/evidence"
)

// View is an event as queries give it: with its last outcome, and its place in
// the log.
type View struct {
	evidence.Event
	Log LogPosition `json:"log"`
}

// LogPosition is where an event stands in the log.
type LogPosition struct {
	Index    uint64 `json:"index"`
	LeafHash string `json:"leaf_hash"` // base64 (standard) of the RFC 6962 leaf hash of the event's record
	// Where the logs of several sidecars are read as one: the name of the log that
	// Index is of, that of the machine that wrote it, and the place among the records of
	// all, counted from 1.
	Origin string `json:"origin,omitempty"`
	Source string `json:"source,omitempty"`
	Seq    uint64 `json:"seq,omitempty"`
}

// placer is a Source that reads several logs as one.
type placer interface {
	Place(index uint64) (LogPosition, error)
}

// MarshalJSON puts log at the end of the event's own members.
func (v View) MarshalJSON() ([]byte, error) {
	// An alias has no methods, so that one which Event may have is not taken for
	// View's own.
	type plain evidence.Event
	return json.Marshal(struct {
		plain
		Log LogPosition `json:"log"`
	}{plain(v.Event), v.Log})
}

// FlagAltered is on an event whose record in the log cannot be read any more:
// what is shown of it is what the index remembers.
const FlagAltered = "evidence.altered"

// hit is an event that a query found, with what its block knows of it.
type hit struct {
	index   uint64
	outcome uint64 // index of its record, and 1; 0: none
	key     eventKey
	time    int64
	words   [numColumns]string
	bare    bool // without its outcome and its place, see Query.Bare
}

func (b *block) hit(r *blockRow) *hit {
	h := &hit{index: b.index(r), outcome: r.outcome, key: r.key, time: r.time}
	for c, w := range r.cols {
		h.words[c] = b.words[w]
	}
	return h
}

// views reads the events of hits from the log. One that retention took in the
// meantime is left out.
func views(src Source, hits []*hit) ([]View, error) {
	var want []uint64
	for _, h := range hits {
		want = append(want, h.index)
		if h.outcome > 0 {
			want = append(want, h.outcome-1)
		}
	}
	entries, failed := readEntries(src, want)
	if errors.Is(failed, ErrAway) {
		return nil, failed // it says nothing about the records
	}
	several, _ := src.(placer)
	first := firstOf(src)
	list := make([]View, 0, len(hits))
	for _, h := range hits {
		v, err := h.view(entries)
		switch {
		case err == nil:
			if several != nil && !h.bare {
				if v.Log, err = several.Place(h.index); err != nil {
					return nil, err
				}
			}
			list = append(list, v)
		case h.index < first:
		case failed == nil:
			return nil, err
		default:
			list = append(list, h.remembered(failed))
		}
	}
	return list, nil
}

// view makes the event out of its records.
func (h *hit) view(entries map[uint64]evidence.Entry) (v View, err error) {
	entry, ok := entries[h.index]
	if !ok {
		return v, fmt.Errorf("record %d cannot be read", h.index)
	}
	e, _, err := evidence.DecodeRecord(entry.Record)
	if err != nil {
		return v, fmt.Errorf("record %d: %w", h.index, err)
	}
	if e == nil || keyOf([]byte(e.ID)) != h.key {
		return v, fmt.Errorf("record %d is not the event that the index knows", h.index)
	}
	v.Event = *e
	if h.bare {
		v.Log.Index = h.index
		return v, nil
	}
	v.Log = LogPosition{Index: h.index, LeafHash: evidence.LeafHash(entry.Record).String()}
	if h.outcome == 0 {
		return v, nil
	}
	entry, ok = entries[h.outcome-1]
	if !ok {
		return v, fmt.Errorf("record %d cannot be read", h.outcome-1)
	}
	_, o, err := evidence.DecodeRecord(entry.Record)
	if err != nil {
		return v, fmt.Errorf("record %d: %w", h.outcome-1, err)
	}
	if o == nil {
		return v, fmt.Errorf("record %d is not an outcome", h.outcome-1)
	}
	v.Outcome = &o.Outcome
	return v, nil
}

// remembered is what can be said of an event whose record is damaged.
func (h *hit) remembered(why error) View {
	id := hex.EncodeToString(h.key[:])
	v := View{Log: LogPosition{Index: h.index}}
	v.ID = "ev_" + id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
	v.EvidenceEventID = v.ID
	v.Kind, v.TenantID, v.AgentID = h.words[colKind], h.words[colTenant], h.words[colAgent]
	v.Tool = h.words[colTool]
	v.Decision.Decision, v.ReasonCode = h.words[colDecision], h.words[colReason]
	v.Explain = evidence.Explain{Summary: "The record of this event cannot be read: " + why.Error() + ".", MatchedRules: []string{}, NextSteps: []string{}}
	v.Time = evidence.Time{Time: time.UnixMicro(h.time).UTC()}
	v.Flags = []string{FlagAltered}
	if s := h.words[colState]; s != "" {
		v.Outcome = &evidence.Outcome{State: s}
	}
	return v
}

// Records that lie closer than readGap are read together, at most readSpan.
const (
	readGap  = 16
	readSpan = 256
)

// readEntries reads the records of those indexes. What cannot be read is not in
// the map, and why is in err.
func readEntries(src Source, want []uint64) (entries map[uint64]evidence.Entry, err error) {
	slices.SortFunc(want, cmp.Compare[uint64])
	entries = make(map[uint64]evidence.Entry, len(want))
	for len(want) > 0 {
		n := 1
		for n < len(want) && want[n]-want[n-1] <= readGap && want[n]-want[0] < readSpan {
			n++
		}
		for from, end := want[0], want[n-1]+1; from < end; {
			got, rerr := src.Read(from, int(end-from))
			if rerr != nil || len(got) == 0 {
				if rerr == nil {
					rerr = fmt.Errorf("record %d is not in the log", from)
				}
				err = rerr
				break
			}
			for _, e := range got {
				entries[e.Index] = e
			}
			from = got[len(got)-1].Index + 1
		}
		if _, ok := entries[want[n-1]]; !ok && n > 1 {
			// One bad record must not hide its neighbours.
			for _, i := range want[:n] {
				if got, rerr := src.Read(i, 1); rerr != nil {
					err = rerr
				} else if len(got) == 1 {
					entries[i] = got[0]
				}
			}
		}
		want = want[n:]
	}
	return entries, err
}
