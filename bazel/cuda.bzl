"""cuda_library: compiles .cu files with the toolkit's nvcc, for linking into C++ targets. Needs no GPU."""

# sm_90a is tuned; sm_80 is correct; PTX of compute_80 serves later chips (compute_90a PTX does not run on them).
_GENCODE = [
    "arch=compute_90a,code=sm_90a",
    "arch=compute_80,code=[sm_80,compute_80]",
]

def _cuda_objects_impl(ctx):
    contexts = [d[CcInfo].compilation_context for d in ctx.attr.deps]
    headers = depset(transitive = [c.headers for c in contexts])
    includes = depset(transitive = [c.includes for c in contexts] + [c.system_includes for c in contexts] +
                                   [c.quote_includes for c in contexts])
    objects = []

    # An edit of one .cu must not compile the others, some of which take minutes.
    headers_here = [src for src in ctx.files.srcs if src.extension != "cu"] + ctx.files.hdrs
    for src in ctx.files.srcs:
        if src.extension != "cu":
            continue
        obj = ctx.actions.declare_file(ctx.label.name + "/" + src.basename[:-3] + ".cu.o")
        args = ctx.actions.args()
        args.add_all(["-c", src.path, "-o", obj.path, "-std=c++17", "-O3", "-lineinfo", "-I."])
        args.add_all(["-Werror", "all-warnings", "-Xcompiler", "-fPIC,-Wall,-Werror"])
        args.add_all(ctx.attr.gencode, before_each = "-gencode")
        args.add_all(includes, before_each = "-isystem")
        args.add_all(ctx.attr.copts)
        ctx.actions.run(
            executable = ctx.file._nvcc.path,
            arguments = [args],
            inputs = depset([src] + headers_here, transitive = [headers, depset(ctx.files._toolkit)]),
            outputs = [obj],
            mnemonic = "CudaCompile",
            progress_message = "Compiling %s" % src.path,
            use_default_shell_env = True,
        )
        objects.append(obj)
    return [DefaultInfo(files = depset(objects))]

_cuda_objects = rule(
    implementation = _cuda_objects_impl,
    attrs = {
        "copts": attr.string_list(),
        "deps": attr.label_list(providers = [CcInfo]),
        "gencode": attr.string_list(default = _GENCODE),
        "hdrs": attr.label_list(allow_files = [".cuh", ".h"]),
        "srcs": attr.label_list(allow_files = [".cu", ".cuh", ".h"]),
        "_nvcc": attr.label(default = "@wheels//:nvcc", allow_single_file = True),
        "_toolkit": attr.label(default = "@wheels//:toolkit"),
    },
)

def cuda_library(name, srcs, hdrs = [], deps = [], copts = [], gencode = _GENCODE, variants = {}, **kwargs):
    """Compiles `srcs` with nvcc; `hdrs` and `deps` as in cc_library. `gencode` lists the machine codes to build.

    `variants` maps the names of further libraries of the same sources to their machine codes: for tests, tagged manual.
    """
    libraries = {name: gencode}
    libraries.update(variants)
    for library, codes in libraries.items():
        options = {"testonly": True, "tags": ["manual"]} if library != name else {}
        _cuda_objects(
            name = library + "_objects",
            srcs = srcs,
            hdrs = hdrs,
            copts = copts,
            gencode = codes,
            deps = deps + ["@wheels//:cudart"],
            **options
        )
        options.update(kwargs)
        native.cc_library(
            name = library,
            srcs = [":" + library + "_objects"],
            hdrs = hdrs,
            linkstatic = True,
            deps = deps + ["@wheels//:cudart"],
            **options
        )
