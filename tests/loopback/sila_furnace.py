"""A tube furnace behind a SiLA 2 server of the independent `sila2` package: the client that is tested is another one.

It anneals (an observable command with progress and intermediate responses), reads back what it was set to, and shows
the faults: a door that is open, a heater that breaks, a second order while it works.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from pathlib import Path
from typing import Any

from sila2.framework import CommandExecutionNotAccepted, DefinedExecutionError, Feature
from sila2.server import FeatureImplementationBase, SilaServer
from sila2.server.encryption import generate_self_signed_certificate

UUID = "6f1d7a52-4a2f-4c1e-9a3b-8d1f0c2b7e55"
HEADER = (
    '<Feature SiLA2Version="1.0" FeatureVersion="1.0" Originator="{originator}" Category="{category}"'
    ' xmlns="http://www.sila-standard.org"><Identifier>{name}</Identifier><DisplayName>{name}</DisplayName>'
    "<Description>For tests</Description>"
)
UNITS = {
    "degC": ("°C", "1", "273.15", "Kelvin", "1"),
    "min": ("min", "60", "0", "Second", "1"),
    "percent": ("%", "0.01", "0", "Dimensionless", "1"),
    "K/min": ("K/min", "0.016666666666666666", "0", "Kelvin", "1"),
}


def kind(basic: str, unit: str = "", low: str = "", high: str = "", choices: tuple[str, ...] = ()) -> str:
    """Return a data type as SiLA writes it."""
    parts = [
        f"<Set>{''.join(f'<Value>{c}</Value>' for c in choices)}</Set>" if choices else "",
        _unit(unit) if unit else "",
        f"<MaximalInclusive>{high}</MaximalInclusive>" if high else "",
        f"<MinimalInclusive>{low}</MinimalInclusive>" if low else "",
    ]
    plain = f"<DataType><Basic>{basic}</Basic></DataType>"
    if not any(parts):
        return plain
    return f"<DataType><Constrained>{plain}<Constraints>{''.join(parts)}</Constraints></Constrained></DataType>"


def _unit(name: str) -> str:
    label, factor, offset, base, exponent = UNITS[name]
    component = f"<UnitComponent><SIUnit>{base}</SIUnit><Exponent>{exponent}</Exponent></UnitComponent>"
    if name == "K/min":
        component += "<UnitComponent><SIUnit>Second</SIUnit><Exponent>-1</Exponent></UnitComponent>"
    return f"<Unit><Label>{label}</Label><Factor>{factor}</Factor><Offset>{offset}</Offset>{component}</Unit>"


def element(tag: str, name: str, data_type: str) -> str:
    """Return a named element: parameter, response or intermediate response."""
    text = f"<Identifier>{name}</Identifier><DisplayName>{name}</DisplayName><Description>{name}</Description>"
    return f"<{tag}>{text}{data_type}</{tag}>"


def command(name: str, body: str, *, observable: bool, errors: tuple[str, ...] = ()) -> str:
    """Return a command."""
    text = f"<Identifier>{name}</Identifier><DisplayName>{name}</DisplayName><Description>{name}</Description>"
    listed = "".join(f"<Identifier>{error}</Identifier>" for error in errors)
    declared = f"<DefinedExecutionErrors>{listed}</DefinedExecutionErrors>" if errors else ""
    return f"<Command>{text}<Observable>{'Yes' if observable else 'No'}</Observable>{body}{declared}</Command>"


def prop(name: str, data_type: str) -> str:
    """Return an unobservable property."""
    text = f"<Identifier>{name}</Identifier><DisplayName>{name}</DisplayName><Description>{name}</Description>"
    return f"<Property>{text}<Observable>No</Observable>{data_type}</Property>"


def furnace_feature(*, highest: str, keyed: bool, unbounded: bool) -> Feature:
    """Return the furnace's feature."""
    temperature = kind("Real", "degC", "25", highest)
    hold = kind("Real", "min", "1", "600")
    gas = kind("String", choices=("air", "argon", "nitrogen"))
    anneal = element("Parameter", "TargetTemperature", temperature) + element("Parameter", "HoldTime", hold)
    anneal += element("Parameter", "Atmosphere", gas)
    anneal += element("Parameter", "OrderKey", kind("String")) if keyed else ""
    anneal += element("Response", "FinalTemperature", kind("Real", "degC"))
    anneal += element("Response", "MassLoss", kind("Real", "percent"))
    anneal += element("IntermediateResponse", "CurrentTemperature", kind("Real", "degC"))
    errors = ("DoorOpen", "HeaterFailed")
    xml = HEADER.format(originator="org.matloop", category="tests", name="Furnace")
    xml += command("Anneal", anneal, observable=True, errors=errors)
    xml += command("Weigh", element("Response", "Mass", kind("Real", "percent")), observable=False)
    xml += command("Stop", "", observable=False)
    if unbounded:
        ramp = element("Parameter", "Rate", kind("Real", "K/min"))
        xml += command("Ramp", ramp + element("Response", "MassLoss", kind("Real", "percent")), observable=False)
    for name, data_type in {
        "TargetTemperature": temperature,
        "HoldTime": hold,
        "Atmosphere": gas,
        "State": kind("String"),
        "LastOrder": kind("String"),
        "Starts": kind("Integer"),
    }.items():
        xml += prop(name, data_type)
    for error in errors:
        xml += element("DefinedExecutionError", error, "")
    return Feature(xml + "</Feature>")


def cancel_feature() -> Feature:
    """Return the standard's feature for cancelling commands, as far as it is needed."""
    xml = HEADER.format(originator="org.silastandard", category="core.commands", name="CancelController")
    xml += command("CancelAll", "", observable=False)
    return Feature(xml + "</Feature>")


class Furnace(FeatureImplementationBase):
    """The furnace: one tube, one job."""

    def __init__(self, server: SilaServer, feature: Feature, seconds: float, trouble: str) -> None:
        super().__init__(server)
        self.feature = feature
        self.seconds = seconds
        self.trouble = trouble
        self.target = 25.0
        self.hold = 1.0
        self.gas = "air"
        self.last_order = ""
        self.starts = 0
        self.tube = threading.Lock()
        self.stopped = threading.Event()

    def Anneal(self, *given: Any, metadata: Any, instance: Any) -> tuple[float, float]:  # noqa: N802  SiLA's spelling
        """Heat, hold and cool; much faster than a furnace would."""
        target, hold, gas = given[:3]
        if not self.tube.acquire(blocking=False):
            message = "the tube is hot"
            raise CommandExecutionNotAccepted(message)
        try:
            if self.trouble == "door":
                raise DefinedExecutionError(self.feature.defined_execution_errors["DoorOpen"], "close the door")
            self.starts += 1
            self.target, self.hold, self.gas = target, hold, gas
            self.last_order = given[3] if len(given) > 3 else ""
            self.stopped.clear()
            instance.begin_execution()
            until = time.monotonic() + self.seconds
            while (left := until - time.monotonic()) > 0:
                if self.stopped.wait(min(0.05, left)):
                    raise RuntimeError("stopped")  # noqa: EM101
                done = min(1.0, 1 - left / self.seconds)
                instance.progress = done
                instance.send_intermediate_response(25.0 + done * (target - 25.0))
                if self.trouble == "heater" and done > 0.3:
                    raise DefinedExecutionError(self.feature.defined_execution_errors["HeaterFailed"], "no current")
            return target - 0.5, round(0.004 * (target - 25.0) + 0.01 * hold, 6)
        finally:
            self.tube.release()

    def Weigh(self, *, metadata: Any) -> float:  # noqa: N802
        """Give a number at once."""
        return 12.5

    def Ramp(self, rate: float, *, metadata: Any) -> float:  # noqa: N802
        """Give a number at once."""
        return rate / 10

    def Stop(self, *, metadata: Any) -> None:  # noqa: N802
        """Stop what runs."""
        self.stopped.set()

    def get_TargetTemperature(self, *, metadata: Any) -> float:  # noqa: N802
        return self.target

    def get_HoldTime(self, *, metadata: Any) -> float:  # noqa: N802
        return self.hold

    def get_Atmosphere(self, *, metadata: Any) -> str:  # noqa: N802
        return self.gas

    def get_State(self, *, metadata: Any) -> str:  # noqa: N802
        return "Heating" if self.tube.locked() else "Idle"

    def get_LastOrder(self, *, metadata: Any) -> str:  # noqa: N802
        return self.last_order

    def get_Starts(self, *, metadata: Any) -> int:  # noqa: N802
        return self.starts


class Cancel(FeatureImplementationBase):
    """The standard's way to stop."""

    def __init__(self, server: SilaServer, furnace: Furnace) -> None:
        super().__init__(server)
        self.furnace = furnace

    def CancelAll(self, *, metadata: Any) -> None:  # noqa: N802
        """Stop what runs."""
        self.furnace.stopped.set()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.3, help="how long one order takes")
    parser.add_argument("--trouble", default="", choices=["", "door", "heater"])
    parser.add_argument("--highest", default="1200", help="largest temperature in degC")
    parser.add_argument("--keyed", action="store_true", help="orders carry a key")
    parser.add_argument("--cancel", action="store_true", help="serve the standard's CancelController")
    parser.add_argument("--unbounded", action="store_true", help="offer a command without bounds")
    parser.add_argument("--tls", type=Path, help="serve over TLS and write the certificate here")
    given = parser.parse_args()
    server = SilaServer("Furnace", "Furnace", "A furnace for tests", "1.2", "https://example.org", UUID)
    feature = furnace_feature(highest=given.highest, keyed=given.keyed, unbounded=given.unbounded)
    furnace = Furnace(server, feature, given.seconds, given.trouble)
    server.set_feature_implementation(feature, furnace)
    if given.cancel:
        server.set_feature_implementation(cancel_feature(), Cancel(server, furnace))
    port = given.port or _free_port()
    if given.tls:
        key, certificate = generate_self_signed_certificate(server.server_uuid, "127.0.0.1")
        given.tls.write_bytes(certificate)
        server.start("127.0.0.1", port, private_key=key, cert_chain=certificate, enable_discovery=False)
    else:
        server.start_insecure("127.0.0.1", port, enable_discovery=False)
    print("READY", port, flush=True)  # noqa: T201  how the tests learn the port
    while True:
        time.sleep(60)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
