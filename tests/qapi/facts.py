"""A schema as a set of facts, one a line: what a client can find out from it."""


class Schema:
    """A reply of query-qmp-schema that can be walked by name."""

    def __init__(self, infos):
        self.by_name = {info["name"]: info for info in infos}
        assert len(self.by_name) == len(infos)

    def names(self):
        """Return the names of all commands and events."""
        kinds = ("command", "event")
        return {name for name, info in self.by_name.items() if info["meta-type"] in kinds}

    def facts(self, name):
        """Return everything that is known of a command or an event."""
        info = self.by_name.get(name)
        if info is None:
            return set()
        found = {"there", *(f"has {feature}" for feature in info.get("features", []))}
        if info.get("allow-oob"):
            found.add("may overtake")
        self._walk(info["arg-type"], "", found, ())
        if "ret-type" in info:
            self._walk(info["ret-type"], "return", found, ())
        return {f"{name}: {fact}" for fact in found}

    def _walk(self, name, path, found, above):
        if name in above:
            found.add(f"{path} again")
            return
        above = (*above, name)
        info = self.by_name[name]
        found.update(f"{path} has {feature}" for feature in info.get("features", []))
        match info["meta-type"]:
            case "builtin":
                found.add(f"{path} is {info['json-type']}")
            case "enum":
                self._walk_enum(info, path, found)
            case "array":
                self._walk(info["element-type"], f"{path}[]", found, above)
            case "alternate":
                for member in info["members"]:
                    self._walk(member["type"], path, found, above)
            case "object":
                self._walk_object(info, path, found, above)

    def _walk_enum(self, info, path, found):
        assert info["values"] == [member["name"] for member in info["members"]]
        for member in info["members"]:
            value = f"{path} = {member['name']}"
            found.update([value, *(f"{value} has {each}" for each in member.get("features", []))])

    def _walk_object(self, info, path, found, above):
        for member in info["members"]:
            where = f"{path}.{member['name']}".lstrip(".")
            assert member.get("default") is None
            found.add(f"{where} {'optional' if 'default' in member else 'mandatory'}")
            found.update(f"{where} has {feature}" for feature in member.get("features", []))
            self._walk(member["type"], where, found, above)
        for variant in info.get("variants", []):
            self._walk(variant["type"], f"{path}<{variant['case']}>", found, above)
