"""The programs that deploy/tools/install.sh installs, and the chart rendered by the real helm."""
import os
import pathlib
import shutil
import subprocess
import unittest

CHART = pathlib.Path("deploy/helm/spotlight")
if "TEST_TMPDIR" in os.environ:  # Bazel's: there every file is a symbolic link, and helm complains about each
    CHART = pathlib.Path(shutil.copytree(CHART, pathlib.Path(os.environ["TEST_TMPDIR"]) / "spotlight"))
EXAMPLES = sorted(pathlib.Path("deploy/helm/examples").glob("*.yaml"))
RULES = CHART / "rules/spotlight.yaml"
KUBERNETES = ("1.30.0", "1.34.0")  # as in deploy/tools/install.sh

FOLDER = pathlib.Path(subprocess.run(["deploy/tools/install.sh", "--where"], stdout=subprocess.PIPE, check=True,
                                     text=True).stdout.strip())


def need(*names):
    """The paths of installed tools. Skips the test file where one is missing."""
    for name in names:
        if not (FOLDER / name).exists():
            reason = f"{name} is not installed: run deploy/tools/install.sh, which says why it cannot be"
            print(f"SKIPPED: {os.environ.get('TEST_TARGET', 'this test')}: {reason}", flush=True)
            raise unittest.SkipTest(reason)
    return [str(FOLDER / name) for name in names]


def run(*command, stdin=None):
    return subprocess.run([str(word) for word in command], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=120)


def helm_template(*flags, version=KUBERNETES[-1], release="demo"):
    """helm's answer: a finished process with stdout, stderr and returncode."""
    return run(FOLDER / "bin/helm", "template", release, CHART, "--namespace", "inference", "--kube-version", version,
               *flags)


class Manifests(list):
    """The objects of a rendered chart."""

    def kind(self, kind):
        return [each for each in self if each["kind"] == kind]

    def one(self, kind):
        found = self.kind(kind)
        assert len(found) == 1, f"{len(found)} objects of kind {kind}"
        return found[0]

    @property
    def pod(self):
        return self.one("Deployment")["spec"]["template"]

    @property
    def server(self):
        return self.pod["spec"]["containers"][0]

    @property
    def flags(self):
        """{"--name": value} of the server's arguments; a switch is True."""
        pairs = (argument.partition("=") for argument in self.server["args"])
        return {name: value if equals else True for name, equals, value in pairs}


def render(*flags, **kwargs):
    import yaml
    done = helm_template(*flags, **kwargs)
    assert done.returncode == 0, done.stderr
    return Manifests(each for each in yaml.safe_load_all(done.stdout) if each)


MINIMAL = ("--set", "model.path=/models/tiny")


def with_values(*settings):
    """Rendered from the fewest values and `settings`, each "key=value" as --set reads it."""
    return render(*MINIMAL, *sum((["--set", setting] for setting in settings), []))


def refusal(*settings):
    """stderr of helm, which must refuse."""
    done = helm_template(*MINIMAL, *sum((["--set", setting] for setting in settings), []))
    assert done.returncode != 0, f"helm rendered {settings}"
    return done.stderr
