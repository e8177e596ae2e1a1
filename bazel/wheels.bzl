"""LibTorch and the CUDA toolkit from pinned PyPI wheels, as one repository."""

def _wheels_impl(ctx):
    given = ctx.os.environ.get("SPOTLIGHT_SITE_PACKAGES")
    if given:
        site = ctx.path(given)
    else:
        ctx.path(ctx.attr.requirements)  # a change here runs the installer again
        ctx.report_progress("installing LibTorch and the CUDA toolkit (2.5 GB)")
        result = ctx.execute([ctx.path(ctx.attr.installer)], timeout = 3000)
        if result.return_code:
            fail("third_party/wheels/install.sh failed:\n" + result.stderr)
        site = ctx.path(result.stdout.strip())

    # Link all but LibTorch's own protobuf headers, which an unmodified site-packages still holds.
    for child in site.readdir():
        if child.basename != "torch":
            ctx.symlink(child, "site/" + child.basename)
    for child in site.get_child("torch").readdir():
        if child.basename != "include":
            ctx.symlink(child, "site/torch/" + child.basename)
    for child in site.get_child("torch").get_child("include").readdir():
        if child.basename != "google":
            ctx.symlink(child, "site/torch/include/" + child.basename)
    ctx.template("BUILD", ctx.attr.build_file_template, {"%{site}": str(site)})

wheels_repository = repository_rule(
    implementation = _wheels_impl,
    doc = "Set SPOTLIGHT_SITE_PACKAGES to use an existing site-packages (torch 2.11.0, CUDA 13.0) instead of installing one.",
    attrs = {
        "build_file_template": attr.label(allow_single_file = True),
        "installer": attr.label(allow_single_file = True),
        "requirements": attr.label(allow_single_file = True),
    },
    environ = ["SPOTLIGHT_SITE_PACKAGES"],
)
