"""cargo_static_library: a Rust staticlib crate, built by cargo from its lock file, as a cc_library."""

def cargo_static_library(name, crate, srcs, **kwargs):
    """`crate` is the library's name in Cargo.toml; `srcs` must hold Cargo.toml, Cargo.lock and every source.

    The crates that it depends on by path are named by their files, too."""
    lib = "lib%s.a" % crate
    native.genrule(
        name = name + "_archive",
        srcs = srcs,
        outs = [lib],
        # Strict action environments hide the PATH, and cargo's own incremental state belongs in the user's cache.
        cmd = """
          manifest=$$(dirname $(execpath Cargo.toml))/Cargo.toml
          target=$${XDG_CACHE_HOME:-$$HOME/.cache}/spotlight/cargo-%s
          export PATH=$$HOME/.cargo/bin:/usr/local/cargo/bin:$$PATH
          cargo build --quiet --release --locked --manifest-path $$manifest --target-dir $$target
          cp $$target/$${CARGO_BUILD_TARGET:-.}/release/%s $@
        """ % (crate, lib),
        local = True,
    )
    native.cc_library(
        name = name,
        srcs = [lib],
        linkopts = [
            "-lpthread",
            "-ldl",
            "-lm",
        ],
        linkstatic = True,
        **kwargs
    )
