package mapping

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// maxDescriptor is the largest descriptor set, in bytes.
const maxDescriptor = 64 << 20

// rpcMethods are the gRPC methods that descriptor sets know, by "Service/Method".
type rpcMethods map[string]*rpcMethod

type rpcMethod struct {
	input          protoreflect.MessageDescriptor
	streams, waits bool // the client streams; and the server may answer before it ends
}

// add reads one FileDescriptorSet, as `protoc --include_imports
// --descriptor_set_out` and `buf build` write it.
func (m rpcMethods) add(data []byte) error {
	if len(data) > maxDescriptor {
		return fmt.Errorf("the descriptor set is larger than %d MiB", maxDescriptor>>20)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil {
		return errors.New("is no FileDescriptorSet: write one with `protoc --include_imports --descriptor_set_out=FILE`")
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return fmt.Errorf("does not hold together (was it written with --include_imports?): %w", err)
	}
	before := len(m)
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				d := s.Methods().Get(j)
				name := string(s.FullName()) + "/" + string(d.Name())
				if m[name] != nil {
					err = fmt.Errorf("the method %s is in another descriptor set too", name)
					return false
				}
				m[name] = &rpcMethod{input: d.Input(), streams: d.IsStreamingClient(), waits: d.IsStreamingClient() && d.IsStreamingServer()}
			}
		}
		return true
	})
	if err == nil && len(m) == before {
		err = errors.New("has no service")
	}
	return err
}

// judgeRPC finds the method of a gRPC call, and says whether its message is read:
// where the client sends one, or where the rule declares arguments and the server
// does not answer before the client has ended.
func (m *Match) judgeRPC() {
	service, method, ok := rpcName(m.Path)
	if !ok {
		return
	}
	m.rpc = m.set.rpcs[service+"/"+method]
	if m.rpc == nil {
		return
	}
	declared := len(m.Rule.args) > 0
	switch {
	case m.rpc.waits && declared:
		m.flag(ambiguity(ClassBody, "the method %s streams both ways, so that its messages cannot be read before it begins, and the rule of %s declares arguments", show(method), m.Rule.Tool))
		m.rpc = nil
	case m.rpc.streams && !declared:
		m.rpc = nil
	default:
		m.NeedBody = m.req.ContentLength != 0
	}
}
