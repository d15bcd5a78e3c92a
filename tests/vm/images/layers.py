"""Writes the layers of the images that tests/vm/images.rs compares: layers.py DIRECTORY makes DIRECTORY/layers/IMAGE/N.tar,
N counting from 1, the lowest first. What is in an image, and why, is said at its function."""

import io
import os
import random
import subprocess
import sys
import tarfile

TIME = 1_600_000_000
IMAGES = {}


class Layer:
    """A layer in the making."""

    def __init__(self, form=tarfile.PAX_FORMAT):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w", format=form, encoding="utf-8", errors="surrogateescape")

    def add(self, path, kind=tarfile.REGTYPE, content=None, *, mode=None, owner=(0, 0), time=TIME, link="",
            device=(0, 0), xattrs=None):
        entry = tarfile.TarInfo(path)
        default = {tarfile.DIRTYPE: 0o755, tarfile.SYMTYPE: 0o777}.get(kind, 0o644)
        entry.type, entry.linkname, entry.mode = kind, link, default if mode is None else mode
        entry.uid, entry.gid = owner
        entry.devmajor, entry.devminor = device
        if isinstance(time, str):
            entry.mtime, entry.pax_headers["mtime"] = 0, time
        else:
            entry.mtime = time
        # Values are bytes, which a header has as they are.
        for name, value in (xattrs or {}).items():
            entry.pax_headers["SCHILY.xattr." + name] = value.decode("utf-8", "surrogateescape")
        content = content or b""
        entry.size = len(content)
        self.tar.addfile(entry, io.BytesIO(content))
        return self

    def file(self, path, content=b"", **more):
        return self.add(path, content=content, **more)

    def directory(self, path, **more):
        return self.add(path, tarfile.DIRTYPE, **more)

    def link(self, path, target, **more):
        return self.add(path, tarfile.SYMTYPE, link=target, **more)

    def hard(self, path, target, **more):
        return self.add(path, tarfile.LNKTYPE, link=target, **more)

    def gone(self, path):
        parent, name = os.path.split(path)
        return self.file(os.path.join(parent, ".wh." + name))

    def opaque(self, path):
        return self.file(path + "/.wh..wh..opq")

    def done(self):
        self.tar.close()
        return self.bytes.getvalue()


def image(make):
    IMAGES[make.__name__] = make
    return make


def raw(name):
    return name.decode("utf-8", "surrogateescape")


@image
def names():
    """Names of all bytes that a name may have, as long as one may be, that begin as options and whiteouts nearly do."""
    layer = Layer().directory("names")
    for name in [b"new\nline", b" blank ", b"-rf", b"...", b".whiteout", b"wh.", b"\\x41", b"'\"$`*?", b"\xff\xfe\x80",
                 "\u00fc\U0001f600".encode(), b"\x01\x7f\t\r", b"n" * 255, b"\xe4" * 255, b"a=b\nc=d"]:
        layer.file("names/" + raw(name), name)
    layer.link("names/link", raw(b"\xff\n to") + "x" * 300).link("names/longest", "t" * 4000)
    layer.directory("names/" + "d" * 255).file("names/" + "d" * 255 + "/" + "f" * 255, b"deep")
    layer.hard("names/hard", "names/" + raw(b"\xff\xfe\x80"))
    old = Layer(tarfile.GNU_FORMAT).directory("gnu").file("gnu/" + "g" * 200, b"g").link("gnu/link", "t" * 300)
    old.hard("gnu/" + "h" * 150, "gnu/" + "g" * 200).file("gnu/" + raw(b"\xff\n"), b"raw")
    ustar = Layer(tarfile.USTAR_FORMAT).directory("ustar/" + "p" * 99).file("ustar/" + "p" * 99 + "/" + "u" * 90, b"u")
    return [layer, old, ustar]


@image
def attributes():
    """Permissions, owners and times at the edges of what headers hold, and past them."""
    layer = Layer().directory("modes").directory("times").directory("owners")
    for mode in [0, 0o1, 0o644, 0o755, 0o1777, 0o2755, 0o4711, 0o6111, 0o7777]:
        layer.file(f"modes/file-{mode:o}", b"m", mode=mode).directory(f"modes/directory-{mode:o}", mode=mode)
    layer.link("modes/link", "file-0", mode=0o644)
    for user, group in [(0, 0), (1000, 70_000), (70_000, 1000), (2_097_151, 2_097_152), (65_534, 4_000_000_000)]:
        owner = (user, group)
        layer.file(f"owners/{user}", b"o", owner=owner).directory(f"owners/directory-{user}", owner=owner)
        layer.link(f"owners/link-{user}", "x", owner=owner)
    layer.file("owners/setuid", b"o", owner=(1000, 70_000), mode=0o6755)
    for number, time in enumerate([0, 1, 2**31, "1234567890.123456789", "1234567890.5", "-1", "-86400.25",
                                   "-2000000000.999999999", "4102444800.000000001", "1.1"]):
        layer.file(f"times/{number}", b"t", time=time).directory(f"times/directory-{number}", time=time)
        layer.link(f"times/link-{number}", "x", time=time)
    # The last layer that has a directory says what it is; what is below stays.
    over = Layer().directory("owners", mode=0o700, owner=(5, 6), time="7.5").directory("times", time="-7.5")
    return [layer, over]


@image
def whiteouts():
    """What goes over three layers, comes back, and is named by whiteouts that hide nothing."""
    one = Layer()
    for name in ["a", "b", "c"]:
        one.directory(name).file(f"{name}/1", b"one").directory(f"{name}/sub").file(f"{name}/sub/1", b"one")
    one.file("file", b"one").link("link", "file").link("dangling", "nowhere").file("back", b"one")
    two = Layer().gone("file").gone("a").gone("b/sub").gone("c/1").gone("link").gone("dangling").gone("never/was")
    two.gone("back").file("b/2", b"two").file("added", b"two").directory("never")
    three = Layer().directory("a", mode=0o711).file("a/3", b"three").file("back", b"three").gone("added")
    # A whiteout does not hide what its own layer has, before or behind it.
    three.file("b/sub", b"three").gone("b/sub").gone("c/sub").directory("c/sub").file("c/sub/3", b"three")
    return [one, two, three]


@image
def opaque():
    """Directories that hide all that is below them, with new contents and without, made anew and hidden once more."""
    one = Layer()
    for name in ["a", "b", "c", "d"]:
        one.directory(name).file(f"{name}/1", b"one").directory(f"{name}/sub").file(f"{name}/sub/1", b"one")
    two = Layer().directory("a", mode=0o700).opaque("a").file("a/2", b"two")
    # The mark comes last.
    two.directory("b").directory("b/sub").file("b/sub/2", b"two").opaque("b")
    two.directory("c/sub", owner=(3, 4)).opaque("c/sub")
    three = Layer().directory("a").opaque("a").directory("d").opaque("d").directory("b/sub").file("b/sub/3", b"three")
    return [one, two, three]


@image
def hard_links():
    """Files of several names: in a layer, to layers below, to links and devices; of which some names go, and some are
    given to other files."""
    one = Layer().directory("h").file("h/a", b"content", mode=0o4755, owner=(1, 2)).hard("h/b", "h/a").hard("c", "h/a")
    one.link("h/link", "a").hard("h/link-too", "h/link").file("h/empty").hard("h/empty-too", "h/empty")
    one.file("d", b"d").hard("e", "./d").hard("f", "/d")
    one.add("h/null", tarfile.CHRTYPE, device=(1, 3)).hard("h/null-too", "h/null")
    two = Layer().directory("below").hard("below/a", "h/a").hard("below/link", "h/link").gone("h/b").file("e", b"other")
    two.gone("f")
    three = Layer().hard("again", "below/a").gone("h").file("d", b"new").hard("g", "e")
    return [one, two, three]


@image
def replaced():
    """What is of another kind in each layer."""
    one = Layer().directory("target").file("target/kept", b"kept").link("link", "target").link("absolute", "/target")
    one.file("file", b"file").directory("directory").file("directory/1", b"one").directory("turning")
    one.file("turning/1", b"one").add("fifo", tarfile.FIFOTYPE)
    two = Layer().directory("link").file("link/inside", b"two").directory("file").file("file/2", b"two")
    two.file("directory", b"now a file").link("turning", "target").file("fifo", b"a file").directory("absolute")
    three = Layer().link("link", "/target").file("file", b"again").directory("directory").file("directory/3", b"three")
    three.directory("turning").file("turning/3", b"three").add("fifo", tarfile.BLKTYPE, device=(7, 300))
    return [one, two, three]


@image
def behind_links():
    """Entries that lie behind links of the layers below, as of a system whose /lib is one: they are where the link leads
    inside of the root, and the link stays."""
    one = Layer().directory("usr").directory("usr/lib").file("usr/lib/1", b"one").link("lib", "usr/lib")
    one.directory("deep").link("deep/up", "../usr").link("absolute", "/usr/lib").link("out", "../../../../usr")
    one.link("first", "second").link("second", "absolute")
    two = Layer().file("lib/2", b"two").file("deep/up/3", b"three").file("absolute/4", b"four", mode=0o600)
    two.file("out/5", b"five").file("first/6", b"six").directory("lib/7").file("lib/7/8", b"eight")
    three = Layer().gone("lib/1").hard("lib/9", "usr/lib/2").gone("first/6").link("lib/7/link", "../2")
    return [one, two, three]


def capability(bits):
    """Version 2 with the effective flag (linux/capability.h)."""
    return b"".join(word.to_bytes(4, "little") for word in [0x0200_0001, bits, 0, 0, 0])


def access_list():
    """Owner, the user 1000, group, mask, others (linux/posix_acl_xattr.h)."""
    none = 2**32 - 1
    entries = [(1, 6, none), (2, 4, 1000), (4, 4, none), (16, 4, none), (32, 0, none)]
    return b"\x02\0\0\0" + b"".join(a.to_bytes(2, "little") + b.to_bytes(2, "little") + c.to_bytes(4, "little")
                                    for a, b, c in entries)


@image
def special():
    """Devices, FIFOs, capabilities, access lists and attributes of users."""
    layer = Layer().directory("devices").directory("x")
    for number, (major, minor) in enumerate([(1, 3), (4, 255), (4, 256), (511, 1_048_575), (4095, 0)]):
        layer.add(f"devices/c{number}", tarfile.CHRTYPE, device=(major, minor), mode=0o666)
        layer.add(f"devices/b{number}", tarfile.BLKTYPE, device=(major, minor), owner=(0, 6), mode=0o660)
    layer.add("devices/fifo", tarfile.FIFOTYPE, mode=0o622)
    layer.file("x/capable", b"program", mode=0o755, xattrs={"security.capability": capability(1 << 13)})
    layer.file("x/listed", b"l", mode=0o640, xattrs={"system.posix_acl_access": access_list()})
    layer.directory("x/lists", mode=0o755, xattrs={"system.posix_acl_default": access_list()})
    layer.file("x/user", b"u", xattrs={"user.a": b"a\nb=c", "user.empty": b"", "user.raw": b"\x01\xff\xfe",
                                       "user." + "n" * 240: b"long name", "user.long": b"v" * 3000})
    layer.directory("x/directory", xattrs={"user.d": b"d", "trusted.t": b"t"})
    # Those of the layer that has the file last, and no others.
    over = Layer().file("x/user", b"v", xattrs={"user.b": b"new"}).directory("x/directory")
    return [layer, over]


def holes(form):
    """A layer with holes, by GNU tar: `form` are its options, and a directory's name."""
    root = os.path.join(sys.argv[1], "holes")
    directory = os.path.join(root, form[-1])
    if os.path.exists(directory):
        return packed(root, form)
    os.makedirs(directory)
    places = {"begin": (5_000_000, [(0, b"begin")]), "end": (5_000_000, [(4_999_990, b"0123456789")]), "all": (70_000, []),
              "middle": (3_000_001, [(1_000_000, os.urandom(100_000)), (2_000_000, b"x")]),
              "many": (20_000_000, [(at * 300_000, b"piece") for at in range(60)])}
    for name, (size, pieces) in places.items():
        with open(os.path.join(directory, name), "wb") as file:
            file.truncate(size)
            for at, piece in pieces:
                file.seek(at)
                file.write(piece)
        os.utime(os.path.join(directory, name), (TIME, TIME))
    os.utime(directory, (TIME, TIME))
    return packed(root, form)


def packed(root, form):
    return subprocess.run(["tar", "--sparse", "--hole-detection=raw", "--owner=0", "--group=0", "-C", root, *form[:-1],
                           "-cf-", form[-1]], check=True, stdout=subprocess.PIPE).stdout


OLD, PAX_0, PAX_1 = (["--format=gnu"], ["--format=posix", "--sparse-version=0.1"],
                     ["--format=posix", "--sparse-version=1.0"])


@image
def sparse():
    """Holes as GNU tar writes them, in the old way and in the two of pax, and zeros that are no holes."""
    zeros = Layer().directory("zeros").file("zeros/all", bytes(3_000_000)).file("zeros/one", bytes(1))
    zeros.file("zeros/some", b"a" * 5000 + bytes(1_000_000) + b"b" + bytes(300_000)).file("zeros/block", bytes(4096))
    return [holes([*OLD, "old"]), holes([*PAX_0, "pax-0"]), holes([*PAX_1, "pax-1"]), zeros]


@image
def sparse_twin():
    """The same files, for umoci, which knows no entries of the old way."""
    return [holes([*PAX_1, "old"]), *sparse()[1:]]


@image
def large():
    """A directory of 5,000 names, a path of 30 parts, contents of all sizes around that of a block."""
    dice = random.Random(1)
    layer = Layer().directory("many")
    for number in range(5000):
        layer.file(f"many/{number}-{'x' * (number % 40)}", str(number).encode() * (number % 3))
    path = "deep"
    for number in range(30):
        layer.directory(path)
        layer.file(f"{path}/file", str(number).encode())
        path += f"/{number}"
    sizes = Layer().directory("sizes")
    for size in [0, 1, 511, 512, 513, 4095, 4096, 4097, 8191, 65_536, 131_071, 131_073, 5_000_001]:
        sizes.file(f"sizes/{size}", dice.randbytes(size))
    over = Layer().gone("many/17-" + "x" * 17).file("many/new", b"new").file("deep/0/1/2/3/4/5/6/7/8/9/new", b"n")
    return [layer, sizes, over]


def main():
    os.makedirs(sys.argv[1], exist_ok=True)
    for name, make in IMAGES.items():
        os.makedirs(os.path.join(sys.argv[1], "layers", name))
        for number, layer in enumerate(make(), 1):
            with open(os.path.join(sys.argv[1], "layers", name, f"{number}.tar"), "wb") as file:
                file.write(layer if isinstance(layer, bytes) else layer.done())


if __name__ == "__main__":
    main()
