package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// load puts the rules of redirectRules in force over netlink, in one transaction,
// so that no nft is needed where they are loaded; none only takes them away. The
// script and this say the same, and a test holds one against the other.
func (r redirection) load(none bool) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("speak to the kernel: %w", err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "actpass"})
	c.DelTable(table) // what was there; a table must be for that
	if none {
		return c.Flush()
	}
	table = c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "actpass"})
	policy := nftables.ChainPolicyAccept
	forced := c.AddChain(&nftables.Chain{
		Name: "forced", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest, Policy: &policy,
	})
	refused := c.AddChain(&nftables.Chain{
		Name: "refused", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	add := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: all})
	}
	accept, back := then(expr.VerdictAccept), then(expr.VerdictReturn)
	lo := meta(expr.MetaKeyOIFNAME, []byte("lo\x00"+"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")) // IFNAMSIZ
	tcp := meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP})
	for _, chain := range []*nftables.Chain{forced, refused} {
		add(chain, meta(expr.MetaKeySKUID, binaryutil.NativeEndian.PutUint32(r.Uid)), accept)
		if r.Mark != 0 {
			add(chain, meta(expr.MetaKeyMARK, binaryutil.NativeEndian.PutUint32(r.Mark)), accept)
		}
		if chain == forced {
			add(chain, lo, back)
		} else {
			add(chain, lo, accept)
			add(chain, []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: 1}, equals([]byte{1})}, accept) // of the reply
		}
		for _, a := range append(append([]netip.Addr{}, r.V4...), r.V6...) {
			for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				add(chain, toAddress(a), meta(expr.MetaKeyL4PROTO, []byte{proto}), toPort(53), accept)
			}
		}
	}
	add(forced, tcp, []expr.Any{
		&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, uint16(r.Port))},
		&expr.Redir{RegisterProtoMin: 1, Flags: 2}, // NF_NAT_RANGE_PROTO_SPECIFIED
	})
	for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		add(refused, meta(expr.MetaKeyL4PROTO, []byte{proto}), accept)
	}
	// NFT_REJECT_ICMPX_UNREACH with NFT_REJECT_ICMPX_ADMIN_PROHIBITED: of either family.
	add(refused, []expr.Any{&expr.Reject{Type: 2, Code: 3}})
	return c.Flush()
}

func equals(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

func meta(key expr.MetaKey, data []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equals(data)}
}

func then(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

func toAddress(a netip.Addr) []expr.Any {
	family, offset := byte(unix.NFPROTO_IPV4), uint32(16) // of the destination in the header
	if a.Is6() {
		family, offset = unix.NFPROTO_IPV6, 24
	}
	b := a.AsSlice()
	return append(meta(expr.MetaKeyNFPROTO, []byte{family}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(b))}, equals(b))
}

func toPort(port uint16) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}, equals(binary.BigEndian.AppendUint16(nil, port))}
}
