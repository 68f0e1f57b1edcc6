package deploytest

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// mostImage is the most that the image may weigh where it is stored and pulled,
// which is compressed; mostBinary the most that the binary may, as it lies on disk.
const mostImage, mostBinary = 30 << 20, 40 << 20

func build(t *testing.T, arch string) string {
	t.Helper()
	out := t.TempDir()
	if b, err := exec.Command("../image/build.sh", out, arch, "1.2.3").CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, b)
	}
	return out
}

// blobs are the digests of what is in an OCI archive.
func blobs(t *testing.T, out string) string {
	t.Helper()
	b, err := exec.Command("tar", "tf", filepath.Join(out, "image.tar"), "--wildcards", "blobs/sha256/*").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestImage(t *testing.T) {
	out := build(t, "amd64")
	file := filepath.Join(out, "root", "actpass")
	f, err := elf.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) > 0 || f.Section(".interp") != nil {
		t.Errorf("it is not static: %v %v", libs, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var small bytes.Buffer
	z := gzip.NewWriter(&small)
	_, _ = z.Write(b)
	_ = z.Close()
	t.Logf("binary %.1f MB, compressed %.1f MB", float64(len(b))/1e6, float64(small.Len())/1e6)
	if small.Len() > mostImage-(1<<20) || len(b) > mostBinary {
		t.Errorf("too large: %d bytes, %d compressed", len(b), small.Len())
	}
	bill(t, filepath.Join(out, "sbom.cdx.json"), file, b)

	// The same again, elsewhere, is the same.
	again := build(t, "amd64")
	if second, err := os.ReadFile(filepath.Join(again, "root", "actpass")); err != nil || !bytes.Equal(b, second) {
		t.Errorf("a second build differs: %v", err)
	}
	if _, err := exec.LookPath("buildah"); err == nil {
		if a, b := blobs(t, out), blobs(t, again); a != b || strings.Count(a, "\n") < 3 {
			t.Errorf("the images differ:\n%s%s", a, b)
		}
	}
	t.Run("runs", func(t *testing.T) { runImage(t, filepath.Join(out, "root")) })
}

// bill holds the bill of materials against what the linker noted, and against the
// binary that it is of.
func bill(t *testing.T, file, program string, b []byte) {
	t.Helper()
	var got struct {
		BOMFormat string
		Metadata  struct {
			Component struct {
				Version string
				Hashes  []struct{ Content string }
			}
		}
		Components []struct{ Name, Version string }
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(program)
	if err != nil || len(got.Components) != len(info.Deps)+1 || len(info.Deps) < 20 || got.BOMFormat != "CycloneDX" || got.Metadata.Component.Version != "1.2.3" ||
		got.Metadata.Component.Hashes[0].Content != fmt.Sprintf("%x", sha256.Sum256(b)) {
		t.Errorf("%d components for %d modules; %+v; %v", len(got.Components), len(info.Deps), got.Metadata, err)
	}
}

// inImage runs the root file system of the image as an engine would: read-only, as
// uid 65532, with a writable /data.
const inImage = `set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t tmpfs -o uid=65532,mode=0700 tmpfs "$1/data"
exec env -i PATH="$PATH" ACTPASS_CONFIG=/etc/actpass/config.yaml ACTPASS_DATA_DIR=/data TMPDIR=/data \
  ACTPASS_LISTEN_PROXY=127.0.0.1:0 ACTPASS_LISTEN_REVERSE=127.0.0.1:0 ACTPASS_LISTEN_API="$2" \
  chroot --userspec=65532:65532 "$1" /actpass serve`

func runImage(t *testing.T, root string) {
	if os.Getuid() != 0 || exec.Command("unshare", "-mn", "true").Run() != nil {
		missing(t, "root and namespaces are needed")
	}
	api := port(t)
	var log bytes.Buffer
	cmd := exec.Command("unshare", "-m", "sh", "-c", inImage, "sh", root, api)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	body := ""
	for range 100 {
		if resp, err := http.Get("http://" + api + "/healthz"); err == nil {
			b, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			body = string(b)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if !strings.Contains(body, `"version":"1.2.3"`) {
		t.Fatalf("it does not answer (%q): %s", body, log.String())
	}
	// The step that forces a pod runs from the same image, which has no nft.
	redirect := exec.Command("unshare", "-n", "chroot", root, "/actpass", "redirect", "--uid", "64365", "--dns", "192.0.2.53")
	if b, err := redirect.CombinedOutput(); err != nil {
		t.Errorf("redirect in the image: %v %s", err, b)
	}
}

// TestImageARM: the other architecture, which is a whole compilation.
func TestImageARM(t *testing.T) {
	if os.Getenv("ACTPASS_LONG") == "" {
		t.Skip("ACTPASS_LONG=1 builds for arm64 too")
	}
	f, err := elf.Open(filepath.Join(build(t, "arm64"), "root", "actpass"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Machine != elf.EM_AARCH64 {
		t.Error(f.Machine)
	}
}

// TestDockerfile: what an engine would build is what build.sh builds.
func TestDockerfile(t *testing.T) {
	docker, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("../image/build.sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{
		"CGO_ENABLED=0", "-trimpath -buildvcs=false", "-s -w -buildid= -X main.version=", "./deploy/image/sbom", "65532:65532", "ACTPASS_DATA_DIR=/data", "TMPDIR=/data",
		"ACTPASS_LISTEN_PROXY=0.0.0.0:8080", "ACTPASS_LISTEN_REVERSE=0.0.0.0:8081", "ACTPASS_LISTEN_API=0.0.0.0:8090", "ACTPASS_CONFIG=/etc/actpass/config.yaml", "config.example.yaml", "policies/*.yaml",
	} {
		if !bytes.Contains(docker, []byte(same)) || !bytes.Contains(script, []byte(same)) {
			t.Errorf("%q is not in both", same)
		}
	}
}

func TestSystemd(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not here")
	}
	unit, err := os.ReadFile("../systemd/actpass.service")
	if err != nil {
		t.Fatal(err)
	}
	// The binary need not be installed where this runs.
	unit = bytes.ReplaceAll(unit, []byte("/usr/local/bin/actpass"), []byte("/bin/true"))
	file := filepath.Join(t.TempDir(), "actpass.service")
	if err := os.WriteFile(file, unit, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("actpass.service")) {
		t.Errorf("verify: %v %s", err, out)
	}
	out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", file).CombinedOutput()
	if err != nil {
		t.Errorf("security: %v %s", err, out)
	}
}
