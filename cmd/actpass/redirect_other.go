//go:build !linux

package main

import "errors"

func (r redirection) load(bool) error { return errors.New("only Linux can redirect") }
