package gate_test

import (
	"fmt"
	"testing"
)

func TestBeside(t *testing.T) {
	f := newGrantGate(t, "enforce")
	for form, want := range map[string]string{
		"charge=ch_1&currency=usd&amount=25000": `[{small_refund_auto_approve allow args.amount <= 5000 && args.currency == "usd" [amount is 25000, which is 20000 over 5000]}]`,
		"charge=ch_1&currency=eur&amount=4000":  `[{small_refund_auto_approve allow args.amount <= 5000 && args.currency == "usd" [currency is "eur", not "usd"]}]`,
	} {
		_, ref := f.Check(t.Context(), f.request("POST", "/v1/refunds", text(form)))
		a, err := f.Approval(t.Context(), approver, ref.Approval, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(f.Beside(&a)); got != want {
			t.Errorf("%s: %s", form, got)
		}
	}
}
