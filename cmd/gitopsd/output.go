package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/gitopsd/gitopsd/internal/status"
	"go.yaml.in/yaml/v4"
)

// printDocument prints a document as json or yaml; both have the same keys.
func printDocument(out io.Writer, output string, document any) error {
	if output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(document)
	}
	text, err := json.Marshal(document)
	if err != nil {
		return fmt.Errorf("cannot encode the document: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var generic any
	if err := decoder.Decode(&generic); err != nil {
		return fmt.Errorf("cannot encode the document: %w", err)
	}
	encoder := yaml.NewEncoder(out)
	encoder.SetIndent(2)
	if err := encoder.Encode(plainNumbers(generic)); err != nil {
		return fmt.Errorf("cannot encode the document: %w", err)
	}
	return encoder.Close()
}

// plainNumbers turns json.Number into integers where they are, so that yaml does not quote them.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			v[k] = plainNumbers(inner)
		}
	case []any:
		for i, inner := range v {
			v[i] = plainNumbers(inner)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return v
}

// printJSONLine prints one object on one line.
func printJSONLine(out io.Writer, document any) error {
	return json.NewEncoder(out).Encode(document)
}

// agentError gives an agent's refusal its exit code.
func agentError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, status.ErrUnreachable):
		return exitError{code: codeUnreachable, err: err}
	case errors.Is(err, status.ErrNoQuorum):
		return exitError{code: codeNoQuorum, err: err}
	case errors.Is(err, status.ErrRefused):
		return exitError{code: codeRefused, err: err}
	}
	return err
}
