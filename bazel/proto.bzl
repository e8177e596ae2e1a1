"""cc_grpc_proto: a .proto file as a cc_library, through Debian's protoc and gRPC plug-in."""

def cc_grpc_proto(name, src, import_root = "", deps = [], has_service = False, **kwargs):
    """`src` is imported by its path from `import_root`, a folder of the workspace ("": the workspace itself)."""
    stem = src[:-len(".proto")]
    outs = [stem + ".pb.h", stem + ".pb.cc"]
    root = import_root or "."
    out_dir = "$(GENDIR)/" + import_root
    grpc_flags = ""
    if has_service:
        outs += [stem + ".grpc.pb.h", stem + ".grpc.pb.cc"]
        grpc_flags = "--grpc_out=%s --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin" % out_dir

    native.filegroup(
        name = name + "_protos",
        srcs = [src] + [d + "_protos" for d in deps],
        **kwargs
    )
    native.genrule(
        name = name + "_sources",
        srcs = [src, ":" + name + "_protos"],
        outs = outs,
        cmd = "protoc -I%s --cpp_out=%s %s $(execpath %s)" % (root, out_dir, grpc_flags, src),
    )
    native.cc_library(
        name = name,
        srcs = [o for o in outs if o.endswith(".cc")],
        hdrs = [o for o in outs if o.endswith(".h")],
        # The generated file's own #include is relative to import_root.
        includes = ["."] if import_root and import_root == native.package_name() else [],
        copts = ["-w"],
        deps = deps + ["//third_party/system:grpc"],
        **kwargs
    )
