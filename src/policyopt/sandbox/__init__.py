"""Programs that nobody trusts, run apart from everything: `Sandbox` starts them, `Limits` bounds them.

Two sides. The host side (``host``, ``files``) starts one *zygote* per `Sandbox` and reads what programs write, in
bounded amounts. The inner side (``zygote``, ``warden``, ``root``, ``kernel``, ``seccomp``, ``program``, ``tester``)
runs in the isolated processes and imports nothing else of policyopt. ``wire`` is what both speak.

Why the namespaces are made here, by system calls, and not by bubblewrap or unshare: every program gets a process
namespace and a temporary file system of its own from a warm process, which needs a privilege inside the outer
namespaces that bubblewrap takes away, and root's programs must become an unprivileged user's (bubblewrap maps them to
root, whom the kernel's limit of processes does not bind).
"""
