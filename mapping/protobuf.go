package mapping

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// protoParser reads a protobuf message by its descriptor. It is stricter than the
// libraries: what they make of a message that no serialiser writes (a field twice:
// the last, or both merged; a value that does not fit: cut off, or refused; an
// unknown field: kept, dropped, or known to a newer schema) is ambiguous.
type protoParser struct {
	in     *input
	values int
	over   bool // too many values, or too deep: said already
}

func (p *protoParser) flag(class, format string, args ...any) {
	if !p.over {
		p.in.flag(class, format, args...)
	}
	// One reason is enough; a message can hold a million.
	p.over = true
}

// count bounds what is made of a message, absent fields included.
func (p *protoParser) count(n int) bool {
	if p.values += n; p.values > maxValues && !p.over {
		p.in.amb = append(p.in.amb, tooLarge(ClassBody, "the message has more than %d values", maxValues))
		p.over = true
	}
	return !p.over
}

// message gives the fields by name. Those that the message does not hold, and of
// which the schema cannot tell absence from the zero value, have that.
func (p *protoParser) message(b []byte, d protoreflect.MessageDescriptor, depth int) map[string]any {
	fields := d.Fields()
	args := make(map[string]any, min(fields.Len(), 64))
	if depth > maxDepth {
		p.flag(ClassBody, "the message nests deeper than %d levels", maxDepth)
		return args
	}
	var oneofs map[protoreflect.Name]bool
	for len(b) > 0 && !p.over {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			p.flag(ClassBody, "the message is not well-formed protobuf")
			break
		}
		if n != protowire.SizeTag(num) {
			p.flag(ClassBody, "the message has a field number with needless bytes")
			break
		}
		b = b[n:]
		fd := fields.ByNumber(num)
		if fd == nil {
			p.flag(ClassBody, "the message has a field %d that the descriptor of %s does not know", num, d.FullName())
			break
		}
		name := string(fd.Name())
		if one := fd.ContainingOneof(); one != nil {
			if oneofs[one.Name()] {
				p.flag(ClassDuplicate, "the message has two fields of the oneof %s, or one twice", one.Name())
			}
			if oneofs == nil {
				oneofs = make(map[protoreflect.Name]bool)
			}
			oneofs[one.Name()] = true
		}
		if _, twice := args[name]; twice && fd.Cardinality() != protoreflect.Repeated {
			p.flag(ClassDuplicate, "the field %s stands twice", name)
		}
		if n = p.field(args, fd, typ, b, depth); n < 0 {
			p.flag(ClassBody, "the field %s is not well-formed protobuf, or not of the type that the descriptor gives it", name)
			break
		}
		b = b[n:]
	}
	p.absent(args, fields)
	return args
}

// absent fills in what a server sees of fields that were not sent.
func (p *protoParser) absent(args map[string]any, fields protoreflect.FieldDescriptors) {
	for i := 0; i < fields.Len() && p.count(1); i++ {
		fd := fields.Get(i)
		name := string(fd.Name())
		if _, there := args[name]; there {
			continue
		}
		switch {
		case fd.IsMap():
			args[name] = map[string]any{}
		case fd.IsList():
			args[name] = []any{}
		case fd.HasPresence():
		case fd.Kind() == protoreflect.EnumKind:
			args[name] = string(fd.Enum().Values().Get(0).Name()) // the zero value of an open enum
		case fd.Kind() == protoreflect.StringKind:
			args[name] = fd.Default().String()
		case fd.Kind() == protoreflect.BytesKind:
			args[name] = protoBytes(fd.Default().Bytes())
		case fd.Kind() == protoreflect.BoolKind:
			args[name] = fd.Default().Bool()
		case fd.Kind() == protoreflect.FloatKind, fd.Kind() == protoreflect.DoubleKind:
			args[name] = fd.Default().Float()
		default:
			args[name] = int64(0) // without presence the default is zero
		}
	}
}

// field puts the value at the head of b into args, and gives its length; negative
// when it is none.
func (p *protoParser) field(args map[string]any, fd protoreflect.FieldDescriptor, typ protowire.Type, b []byte, depth int) int {
	name := string(fd.Name())
	switch {
	case fd.IsMap():
		entry, n := lengthPrefixed(b, typ)
		if n < 0 {
			return n
		}
		held, _ := args[name].(map[string]any)
		if held == nil {
			held = map[string]any{}
			args[name] = held
		}
		p.entry(held, fd, entry, depth)
		return n
	case fd.IsList():
		list, _ := args[name].([]any)
		n := 0
		if typ == protowire.BytesType && wireType(fd.Kind()) != protowire.BytesType && fd.Kind() != protoreflect.GroupKind {
			var packed []byte
			if packed, n = lengthPrefixed(b, typ); n < 0 {
				return n
			}
			for len(packed) > 0 && !p.over {
				v, used := p.value(fd, wireType(fd.Kind()), packed, depth)
				if used < 0 {
					return used
				}
				list, packed = append(list, v), packed[used:]
			}
		} else {
			var v any
			if v, n = p.value(fd, typ, b, depth); n < 0 {
				return n
			}
			list = append(list, v)
		}
		args[name] = list
		return n
	}
	v, n := p.value(fd, typ, b, depth)
	args[name] = v
	return n
}

// entry reads one entry of a map: a message of a key and a value.
func (p *protoParser) entry(held map[string]any, fd protoreflect.FieldDescriptor, b []byte, depth int) {
	m := p.message(b, fd.Message(), depth+1)
	if p.over {
		return
	}
	var key string
	switch k := m["key"].(type) {
	case nil:
		// An entry without a key is that of the zero key; no serialiser writes one.
		p.flag(ClassBody, "an entry of the map %s has no key", fd.Name())
		return
	case rawNumber:
		key = string(k)
	default:
		key = scalarText(k)
	}
	v, there := m["value"]
	if !there {
		p.flag(ClassBody, "an entry of the map %s has no value", fd.Name())
		return
	}
	if _, twice := held[key]; twice {
		p.flag(ClassDuplicate, "the map %s has the key %s twice", fd.Name(), show(key))
		return
	}
	held[key] = v
}

// value reads one value, without its tag.
func (p *protoParser) value(fd protoreflect.FieldDescriptor, typ protowire.Type, b []byte, depth int) (any, int) {
	if !p.count(1) || typ != wireType(fd.Kind()) {
		return nil, -1
	}
	switch typ {
	case protowire.VarintType:
		u, n := protowire.ConsumeVarint(b)
		if n < 0 || n != protowire.SizeVarint(u) {
			return nil, -1
		}
		v, ok := p.varint(fd, u)
		if !ok {
			return nil, -1
		}
		return v, n
	case protowire.Fixed32Type:
		u, n := protowire.ConsumeFixed32(b)
		switch fd.Kind() {
		case protoreflect.FloatKind:
			return p.float(fd, float64(math.Float32frombits(u))), n
		case protoreflect.Sfixed32Kind:
			return int64(int32(u)), n
		}
		return int64(u), n
	case protowire.Fixed64Type:
		u, n := protowire.ConsumeFixed64(b)
		switch fd.Kind() {
		case protoreflect.DoubleKind:
			return p.float(fd, math.Float64frombits(u)), n
		case protoreflect.Sfixed64Kind:
			return int64(u), n
		}
		return unsigned(u), n
	case protowire.StartGroupType:
		inner, n := protowire.ConsumeGroup(fd.Number(), b)
		if n < 0 {
			return nil, n
		}
		return p.message(inner, fd.Message(), depth+1), n
	}
	data, n := lengthPrefixed(b, typ)
	if n < 0 {
		return nil, n
	}
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return p.message(data, fd.Message(), depth+1), n
	case protoreflect.BytesKind:
		return protoBytes(data), n
	}
	if !utf8.Valid(data) {
		p.flag(ClassBody, "the field %s is not valid UTF-8", fd.Name())
	}
	return string(data), n
}

// varint gives the value of a kind that is written as one, where it fits.
func (p *protoParser) varint(fd protoreflect.FieldDescriptor, u uint64) (any, bool) {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return u == 1, u <= 1
	case protoreflect.EnumKind:
		return p.enum(fd, int64(u)), true
	case protoreflect.Int32Kind:
		return int64(u), int64(u) == int64(int32(u))
	case protoreflect.Uint32Kind:
		return int64(u), u <= math.MaxUint32
	case protoreflect.Sint32Kind:
		return protowire.DecodeZigZag(u), u <= math.MaxUint32
	case protoreflect.Sint64Kind:
		return protowire.DecodeZigZag(u), true
	case protoreflect.Int64Kind:
		return int64(u), true
	}
	return unsigned(u), true
}

// enum gives the name of a number; one without is another thing to each server.
func (p *protoParser) enum(fd protoreflect.FieldDescriptor, n int64) any {
	if n == int64(int32(n)) {
		if v := fd.Enum().Values().ByNumber(protoreflect.EnumNumber(n)); v != nil {
			return string(v.Name())
		}
	}
	p.flag(ClassBody, "the field %s is %d, for which the descriptor has no name", fd.Name(), n)
	return n
}

// float refuses what no comparison holds for.
func (p *protoParser) float(fd protoreflect.FieldDescriptor, f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		p.flag(ClassBody, "the field %s is no finite number", fd.Name())
		return nil
	}
	return f
}

// unsigned is an int64, or a number as written that typing settles.
func unsigned(u uint64) any {
	if u <= math.MaxInt64 {
		return int64(u)
	}
	return rawNumber(strconv.FormatUint(u, 10))
}

func protoBytes(b []byte) map[string]any {
	sum := sha256.Sum256(b)
	return map[string]any{"bytes": int64(len(b)), "sha256": hex.EncodeToString(sum[:])}
}

// lengthPrefixed gives the bytes at the head of b, whose length is written with no
// needless bytes.
func lengthPrefixed(b []byte, typ protowire.Type) ([]byte, int) {
	if typ != protowire.BytesType {
		return nil, -1
	}
	data, n := protowire.ConsumeBytes(b)
	if n >= 0 && n != protowire.SizeBytes(len(data)) {
		return nil, -1
	}
	return data, n
}

func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.VarintType
}
