package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/actpass/sidecar/api"
)

// listing is a command that asks for a list and prints it: as a table, or with
// --json as the API gives it.
type listing[T any] struct {
	use, short, long, example string
	// fetch asks for the list. limit is what --limit says; 0 where pages is false.
	fetch func(ctx context.Context, cmd *cobra.Command, limit int) (api.Page[T], error)
	// pages says that there may be more than is shown, which --limit and the flags of
	// narrower bound; otherwise fetch gives all.
	pages    bool
	narrower string // " or --state"
	head     []string
	row      func(*T) []string
	after    func(cmd *cobra.Command, list []T) // a last word under the table; nil: none
}

func (l listing[T]) command() *cobra.Command {
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use: l.use, Short: l.short, Long: l.long, Example: l.example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.pages {
				if err := checkLimit(limit, longestPage); err != nil {
					return err
				}
			}
			ctx, stop := interruptible(cmd)
			defer stop()
			p, err := l.fetch(ctx, cmd, limit)
			if err != nil {
				return explained(err)
			}
			if asJSON {
				if p.Data == nil {
					p.Data = []T{}
				}
				return printJSON(cmd.OutOrStdout(), p)
			}
			t := newTable(cmd.OutOrStdout(), l.head...)
			for i := range p.Data {
				t.row(l.row(&p.Data[i])...)
			}
			if err := t.end(); err != nil {
				return err
			}
			if p.Next != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "there are more; see them with --limit"+l.narrower)
			}
			if l.after != nil {
				l.after(cmd, p.Data)
			}
			return nil
		},
	}
	if l.pages {
		cmd.Flags().IntVar(&limit, "limit", api.DefaultLimit, "how many, 1 to 1000")
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	addAPIFlag(cmd)
	return cmd
}

// fromAPI is a fetch that asks the running sidecar.
func fromAPI[T any](ask func(ctx context.Context, c *api.Client, limit int) (api.Page[T], error)) func(context.Context, *cobra.Command, int) (api.Page[T], error) {
	return func(ctx context.Context, cmd *cobra.Command, limit int) (api.Page[T], error) {
		client, err := newClient(cmd)
		if err != nil {
			return api.Page[T]{}, err
		}
		return ask(ctx, client, limit)
	}
}
