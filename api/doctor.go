package api

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/actpass/sidecar/doctor"
	"github.com/actpass/sidecar/gate"
)

// DoctorRecorded answers a report of the doctor.
type DoctorRecorded struct {
	EventID string `json:"evidence_event_id"`
}

func (s *server) doctor(w http.ResponseWriter, r *http.Request, id gate.Identity) error {
	var b doctor.Report
	if err := decode(w, r, &b); err != nil {
		return err
	}
	known := strings.Join(doctor.Verdicts, ", ")
	if !slices.Contains(doctor.Verdicts, b.Verdict) {
		return invalid("verdict", "is none of "+known)
	}
	if len(b.Paths) == 0 || len(b.Paths) > 32 {
		return invalid("paths", "must have between 1 and 32 members")
	}
	paths := make(map[string]string, len(b.Paths))
	for i, p := range b.Paths {
		at := fmt.Sprintf("paths.%d", i)
		switch {
		case p.Path == "" || len(p.Path) > 32 || paths[p.Path] != "":
			return invalid(at+".path", "must be a name of at most 32 bytes that no other has")
		case !slices.Contains(doctor.Verdicts, p.Verdict):
			return invalid(at+".verdict", "is none of "+known)
		case len(p.Target) > 256 || len(p.Detail) > 512 || len(p.Change) > 512:
			return invalid(at, "has a text that is too long")
		}
		paths[p.Path] = p.Verdict + ": " + p.Target + ": " + p.Detail
	}
	event, err := s.Gate.RecordDoctor(r.Context(), id, b.Verdict, paths)
	if err != nil {
		return about("report", storeDown, err)
	}
	return writeJSON(w, http.StatusCreated, DoctorRecorded{EventID: event})
}

// ReportDoctor puts a report of the doctor on record, and gives the event's id.
func (c *Client) ReportDoctor(ctx context.Context, report doctor.Report) (eventID string, err error) {
	var out DoctorRecorded
	err = c.call(ctx, http.MethodPost, "/api/v1/doctor", nil, report, &out)
	return out.EventID, err
}
