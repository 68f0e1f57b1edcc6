package proxy

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"strconv"
	"strings"

	"github.com/actpass/sidecar/evidence"
	"github.com/actpass/sidecar/gate"
)

// problem is RFC 9457 problem details; the members of the decision object
// stand beside the standard ones. The type is about:blank: the reason_code is
// what tells refusals apart. Error says it once more for the many SDKs that know
// {"error":{"message"}} alone, whoever's API they speak.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	evidence.Decision
	Error struct {
		Message string `json:"message"`
		Code    string `json:"code"`
	} `json:"error"`
}

// stripeError is the error object of the Stripe API. Its SDKs raise a
// permission error on 403, with Message as the message.
type stripeError struct {
	Error struct {
		Type    string            `json:"type"`
		Code    string            `json:"code"`
		Message string            `json:"message"`
		Status  string            `json:"status,omitempty"`
		ActPass evidence.Decision `json:"actpass"`
	} `json:"error"`
}

// stripeHeld is the status of a call that waits for a human. stripe-go retries
// no error that it can read, whatever Stripe-Should-Retry says, and every one
// that it cannot: its own status is a number. The other SDKs read past it.
const stripeHeld = "held"

// openAIError is the error object of the OpenAI API.
type openAIError struct {
	Error struct {
		Message string            `json:"message"`
		Type    string            `json:"type"`
		Param   *string           `json:"param"`
		Code    string            `json:"code"`
		ActPass evidence.Decision `json:"actpass"`
	} `json:"error"`
}

// anthropicError is the error object of the Anthropic API.
type anthropicError struct {
	Type  string `json:"type"`
	Error struct {
		Type    string            `json:"type"`
		Message string            `json:"message"`
		ActPass evidence.Decision `json:"actpass"`
	} `json:"error"`
}

// githubError is the error object of the GitHub API. Octokit reads it as
// application/json alone.
type githubError struct {
	Message string            `json:"message"`
	Status  string            `json:"status"`
	ActPass evidence.Decision `json:"actpass"`
}

// awsError is the error of AWS: of S3 in XML as it stands here, of the services
// with a query protocol one level down, in JSON with the members that the SDKs
// of the JSON protocols read.
type awsError struct {
	XMLName xml.Name          `json:"-" xml:"Error"`
	Type    string            `json:"__type" xml:"-"`
	Code    string            `json:"code" xml:"Code"`
	Message string            `json:"message" xml:"Message"`
	ID      string            `json:"-" xml:"RequestId"`
	ActPass evidence.Decision `json:"actpass" xml:"-"`
}

// awsQueryError is read by the SDKs of the query protocol, who look for Error,
// and by EC2's, who look for Errors.
type awsQueryError struct {
	XMLName xml.Name `xml:"ErrorResponse"`
	Error   awsError
	Errors  struct{ Error awsError }
	ID      string `xml:"RequestId"`
}

// rpcError is a JSON-RPC 2.0 error response.
type rpcError struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Error   struct {
		Code    int               `json:"code"`
		Message string            `json:"message"`
		Data    evidence.Decision `json:"data"`
	} `json:"error"`
}

// rpcRefused is in the range that JSON-RPC leaves to servers (-32000 to -32099).
const rpcRefused = -32003

// grpcCodes are the gRPC status codes for the statuses of a refusal.
var grpcCodes = map[int]int{
	400: 3, 403: 7, 404: 5, 407: 16, 409: 9, 413: 8, 415: 3, 421: 3, 429: 8, 431: 8,
	500: 13, 502: 14, 503: 14, 504: 4,
}

// answer is a response that is ours.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	trailer http.Header
}

// render gives a refusal its shape.
func render(r *gate.Refusal) answer {
	if r.Replay != nil {
		return replay(r)
	}
	a := answer{status: r.Status, header: make(http.Header, 10)}
	if a.status < 400 || a.status > 599 {
		a.status = http.StatusForbidden // the zero refusal refuses
	}
	d := r.Decision
	complete(&d)
	a.decision(d)
	retry := "false"
	if r.Retry {
		retry = "true"
	}
	if a.status != http.StatusBadGateway && a.status != http.StatusGatewayTimeout {
		// Where the upstream could not be had, the SDK's own rules are the right ones.
		a.header["Stripe-Should-Retry"] = []string{retry}
		a.header["X-Should-Retry"] = []string{retry}
	}
	if r.RetryAfter > 0 {
		a.header["Retry-After"] = []string{strconv.Itoa(int((r.RetryAfter + 999_999_999) / 1e9))}
	}
	approval := r.Approval
	if approval == "" {
		approval = d.ApprovalRequestID
	}
	if approval != "" {
		a.header["ActPass-Approval"] = []string{approval}
	}
	if a.status == http.StatusProxyAuthRequired {
		a.header["Proxy-Authenticate"] = []string{`Basic realm="actpass", charset="UTF-8"`}
	}
	a.header["Cache-Control"] = []string{"no-store"}
	switch r.Shape {
	case "stripe":
		var e stripeError
		e.Error.Type, e.Error.Code, e.Error.Message, e.Error.ActPass = "invalid_request_error", d.ReasonCode, r.Sentence, d
		if r.Retry {
			e.Error.Status = stripeHeld
		}
		a.json("application/json", e)
	case "jsonrpc":
		var e rpcError
		e.JSONRPC, e.ID = "2.0", json.RawMessage("null")
		if json.Valid(r.RPCID) {
			e.ID = r.RPCID
		}
		e.Error.Code, e.Error.Message, e.Error.Data = rpcRefused, r.Sentence, d
		a.json("application/json", e)
	case "openai":
		var e openAIError
		e.Error.Message, e.Error.Type, e.Error.Code, e.Error.ActPass = r.Sentence, "permission_denied", d.ReasonCode, d
		a.json("application/json", e)
	case "anthropic":
		e := anthropicError{Type: "error"}
		e.Error.Type, e.Error.Message, e.Error.ActPass = "permission_error", r.Sentence, d
		a.json("application/json", e)
	case "github":
		a.json("application/json", githubError{r.Sentence, strconv.Itoa(a.status), d})
	case "aws-rest", "aws-query", "aws-json":
		a.aws(r, d)
	case "grpc":
		a.grpc(r.Sentence)
	default:
		p := problem{Type: "about:blank", Title: http.StatusText(a.status), Status: a.status, Detail: r.Sentence, Decision: d}
		p.Error.Message, p.Error.Code = r.Sentence, d.ReasonCode
		a.json("application/problem+json", p)
	}
	return a
}

// replay gives a recorded answer again.
func replay(r *gate.Refusal) answer {
	a := answer{status: r.Replay.Status, header: make(http.Header, len(r.Replay.Header)+4), body: r.Replay.Body, trailer: r.Replay.Trailer}
	copyAnswer(a.header, r.Replay.Header)
	a.decision(r.Decision)
	a.header["ActPass-Replayed"] = []string{"true"}
	if r.Approval != "" {
		a.header["ActPass-Approval"] = []string{r.Approval}
	}
	a.header["Content-Length"] = []string{strconv.Itoa(len(a.body))}
	return a
}

// complete fills what a decision object never lacks.
func complete(d *evidence.Decision) {
	if d.Decision == "" {
		d.Decision = "deny"
	}
	if d.Explain.MatchedRules == nil {
		d.Explain.MatchedRules = []string{}
	}
	if d.Explain.NextSteps == nil {
		d.Explain.NextSteps = []string{}
	}
	if d.Would == nil {
		d.Would = map[string]string{}
	}
}

func (a *answer) decision(d evidence.Decision) {
	setDecision(a.header, d)
}

// setDecision sets the headers that every judged answer carries. The names are
// written as the documents write them, not in canonical MIME case.
func setDecision(h http.Header, d evidence.Decision) {
	h["ActPass-Decision"] = []string{d.Decision}
	if d.ReasonCode != "" {
		h["ActPass-Reason"] = []string{printable(d.ReasonCode)}
	}
	if d.EvidenceEventID != "" {
		h["ActPass-Evidence"] = []string{d.EvidenceEventID}
	}
}

func (a *answer) json(contentType string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		// Only a decision that holds no JSON can bring us here; the sentence and
		// the headers still tell the agent.
		b, contentType = []byte("refused\n"), "text/plain; charset=utf-8"
	}
	a.bytes(contentType, b)
}

func (a *answer) bytes(contentType string, b []byte) {
	a.body = b
	a.header["Content-Type"] = []string{contentType}
	a.header["Content-Length"] = []string{strconv.Itoa(len(b))}
}

func (a *answer) aws(r *gate.Refusal, d evidence.Decision) {
	e := awsError{Type: d.ReasonCode, Code: d.ReasonCode, Message: r.Sentence, ID: d.EvidenceEventID, ActPass: d}
	if e.ID != "" {
		a.header["X-Amzn-Requestid"] = []string{e.ID}
	}
	var v any = e
	switch r.Shape {
	case "aws-json":
		a.json("application/json", e)
		return
	case "aws-query":
		q := awsQueryError{Error: e, ID: e.ID}
		q.Errors.Error = e
		v = q
	}
	b, err := xml.Marshal(v)
	if err != nil {
		b = []byte("<Error><Message>refused</Message></Error>")
	}
	a.bytes("application/xml", append([]byte(xml.Header), b...))
}

// grpc makes a trailers-only answer: gRPC carries every error of a call in a
// 200, and its clients show the sentence only then.
func (a *answer) grpc(sentence string) {
	code, ok := grpcCodes[a.status]
	if !ok {
		code = 2
	}
	a.status = http.StatusOK
	a.header["Content-Type"] = []string{"application/grpc"}
	a.header["Grpc-Status"] = []string{strconv.Itoa(code)}
	a.header["Grpc-Message"] = []string{grpcMessage(sentence)}
	a.header["Content-Length"] = []string{"0"}
}

// grpcMessage percent-encodes as the gRPC specification of Status-Message asks.
func grpcMessage(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			const hex = "0123456789ABCDEF"
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// write sends the answer through net/http.
func (a *answer) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	for name, values := range a.header {
		h[name] = values
	}
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body)
	}
	for name, values := range a.trailer {
		h[http.TrailerPrefix+name] = values
	}
}

// raw is the answer as HTTP/1.1 bytes, for connections that net/http does not
// answer: a CONNECT, or a head that it refused.
func (a *answer) raw() []byte {
	var b strings.Builder
	b.WriteString("HTTP/1.1 " + strconv.Itoa(a.status) + " " + http.StatusText(a.status) + "\r\n")
	_ = a.header.Write(&b)
	b.WriteString("Connection: close\r\n\r\n")
	b.Write(a.body)
	return []byte(b.String())
}
