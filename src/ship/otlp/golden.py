"""Prints what tests.rs compares with, made by Google's protobuf from OpenTelemetry's own definitions.

pip install opentelemetry-proto; python3 golden.py >golden.txt: a request and two answers, in hex.
"""

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource


def text(key, value):
    return KeyValue(key=key, value=AnyValue(string_value=value))


def record(sequence, body, first, last, **more):
    place = [text("log.record.uid", f"id-{sequence}"),
             KeyValue(key="imrun.sequence", value=AnyValue(int_value=sequence))]
    time = sequence * 1_000_000_000
    return LogRecord(time_unix_nano=time, observed_time_unix_nano=time, body=body,
                     attributes=first + place + last, **more)


def stream(name):
    return [text("log.iostream", name)]


resource = Resource(attributes=[
    text("service.name", "web"), text("service.instance.id", "c"), text("container.id", "c"),
    text("container.name", "web"), text("container.image.id", "sha256:d"), text("host.name", "h"),
    text("imrun.launch_id", "l")])
values = [AnyValue(), AnyValue(bool_value=True), AnyValue(int_value=-1), AnyValue(double_value=1.5)]
lines = KeyValueList(values=[KeyValue(key="read", value=AnyValue(int_value=300))])
fields = [KeyValue(key="imrun.a", value=AnyValue(array_value=ArrayValue(values=values))),
          KeyValue(key="imrun.lines", value=AnyValue(kvlist_value=lines))]
records = [
    record(1, AnyValue(string_value="imrun: exit"), [], fields, severity_number=9, event_name="imrun.exit"),
    record(2, AnyValue(string_value="x" * 200), stream("stdout"), []),
    record(3, AnyValue(bytes_value=b"\xff"), stream("stderr"),
           [KeyValue(key="imrun.partial", value=AnyValue(bool_value=True))]),
    record(4, AnyValue(string_value="m"), stream("stdout"), [text("event.dataset", "shop"), text("level", "warn")],
           severity_number=13, severity_text="warn"),
]
# The app's own time is the event's; imrun's is when it was observed.
records[3].time_unix_nano = 9_000_000_000
scope = ScopeLogs(scope=InstrumentationScope(name="imrun", version="VERSION"), log_records=records)
request = ExportLogsServiceRequest(resource_logs=[ResourceLogs(resource=resource, scope_logs=[scope])])
print(request.SerializeToString(deterministic=True).hex())
for partial in [ExportLogsPartialSuccess(rejected_log_records=2, error_message="too old"),
                ExportLogsPartialSuccess(rejected_log_records=-1)]:
    print(ExportLogsServiceResponse(partial_success=partial).SerializeToString().hex())
