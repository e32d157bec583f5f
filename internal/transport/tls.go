package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// selfSigned makes the certificate of this start. Only its public key and the
// instance nonce matter to others; the dates say "always".
func selfSigned(id Identity) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id.Host, SerialNumber: id.Instance},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, id.Key.Public(), id.Key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: id.Key}, nil
}

// presented returns the key and the instance nonce of the other end. The TLS
// handshake has proved that it holds the key; nothing else in the certificate
// is believed.
func presented(state tls.ConnectionState) (ed25519.PublicKey, string, error) {
	if len(state.PeerCertificates) == 0 {
		return nil, "", errors.New("no certificate presented")
	}
	leaf := state.PeerCertificates[0]
	key, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, "", fmt.Errorf("presented a %s key, want ed25519", leaf.PublicKeyAlgorithm)
	}
	instance := leaf.Subject.SerialNumber
	if !validInstance(instance) {
		return nil, "", errors.New("presented a certificate without an instance nonce")
	}
	return key, instance, nil
}

// serverTLS builds the acceptor's side for the protocols served right now.
func (t *Transport) serverTLS(protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{t.cert},
		ClientAuth:                  tls.RequireAnyClientCert,
		NextProtos:                  protocols,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // small records at first are for browsers
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol == "" {
				return errors.New("no application protocol offered")
			}
			key, _, err := presented(state)
			if err != nil {
				return err
			}
			if _, ok := t.dir.Host(key); !ok && state.NegotiatedProtocol != HistoryALPN {
				return &unknownKeyError{key: key}
			}
			return nil
		},
	}
}

// clientTLS builds the dialler's side towards one host and protocol.
func (t *Transport) clientTLS(host, alpn string) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		Certificates:                []tls.Certificate{t.cert},
		NextProtos:                  []string{alpn},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // small records at first are for browsers
		// The name and chain checks are replaced by the pinned key below.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if state.NegotiatedProtocol != alpn {
				return fmt.Errorf("%w: it chose %q instead of %q", ErrProtocol, state.NegotiatedProtocol, alpn)
			}
			key, _, err := presented(state)
			if err != nil {
				return err
			}
			if alpn == HistoryALPN {
				return nil // what it serves proves itself
			}
			return t.checkKey(host, key)
		},
	}
}

// checkKey compares the key that answered with those of the host meant.
func (t *Transport) checkKey(host string, key ed25519.PublicKey) error {
	for _, want := range t.dir.Keys(host) {
		if want.Equal(key) {
			return nil
		}
	}
	if other, ok := t.dir.Host(key); ok {
		return fmt.Errorf("%w: presented key of %s, expected %s", ErrKeyMismatch, other, host)
	}
	return fmt.Errorf("%w: presented a key that is not in the inventory (%s), expected %s", ErrKeyMismatch, Fingerprint(key), host)
}

type unknownKeyError struct{ key ed25519.PublicKey }

func (e *unknownKeyError) Error() string {
	return "key " + Fingerprint(e.key) + " is not in the inventory"
}
