"""Tells a broker what is seen. A broker that is away stops nothing: the client connects again by itself."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from classifier.config import Mqtt
from classifier.state import State

log = logging.getLogger("classifier.mqtt")
_ONLINE, _OFFLINE = "online", "offline"
_SHORT_S, _OFTEN = 10.0, 3


class Publisher:
    """Topics below the configured one: ``availability``, ``state``; both retained."""

    def __init__(self, config: Mqtt, state: State) -> None:
        self._config, self._state = config, state
        self._since, self._short = 0.0, 0
        self._identity = re.sub(r"[^A-Za-z0-9_-]+", "_", config.topic)
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=config.name)
        self._client.will_set(f"{config.topic}/availability", _OFFLINE, qos=1, retain=True)
        if config.username:
            password = Path(config.password_file).read_text(encoding="utf-8").strip() if config.password_file else None
            self._client.username_pw_set(config.username, password)
        if config.tls or config.ca_file:
            self._client.tls_set(ca_certs=config.ca_file or None)
        self._client.reconnect_delay_set(1, 60)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._lost
        self._client.on_connect_fail = lambda *_: log.warning("the broker at %s does not answer", config.host)
        self._client.connect_async(config.host, config.port)
        self._client.loop_start()

    def _connected(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.error("the broker refused the connection: %s", reason)
            return
        self._since = time.monotonic()
        log.info("connected to the broker at %s as %s", self._config.host, self._config.name)
        if self._config.home_assistant:
            self._announce()
        self._client.publish(f"{self._config.topic}/availability", _ONLINE, qos=1, retain=True)
        self.publish()

    def _lost(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            log.warning("the connection to the broker was lost: %s", reason)
            self._ask_who_else()

    def _ask_who_else(self) -> None:
        """A broker that throws a client out right after it let it in most likely has another one of the same name."""
        self._short = self._short + 1 if time.monotonic() - self._since < _SHORT_S else 0
        if self._short == _OFTEN:
            name = self._config.name
            log.error(
                "thrown out %s times: does another client use the name %s? [mqtt] name gives this one its own",
                _OFTEN,
                name,
            )

    def _announce(self) -> None:
        topic = self._config.topic
        document = {
            "name": "Seen",
            "unique_id": self._identity,
            "state_topic": f"{topic}/state",
            "value_template": "{{ value_json.seen or 'nothing' }}",
            "json_attributes_topic": f"{topic}/state",
            "availability_topic": f"{topic}/availability",
            "icon": "mdi:eye",
            "device": {
                "identifiers": [self._identity],
                "name": f"Classifier {self._config.name}",
                "manufacturer": "edgevit",
                "model": self._state.about["model"],
            },
        }
        self._client.publish(f"homeassistant/sensor/{self._identity}/config", json.dumps(document), qos=1, retain=True)

    def publish(self) -> None:
        """Tell the present answer."""
        found = self._state.document()
        kept = {key: found[key] for key in ("seen", "top", "pictures", "took_ms", "model")}
        self._client.publish(f"{self._config.topic}/state", json.dumps(kept, ensure_ascii=False), qos=1, retain=True)

    def close(self) -> None:
        """Say goodbye, and wait a moment for it to be sent."""
        if self._client.is_connected():
            self._client.publish(f"{self._config.topic}/availability", _OFFLINE, qos=1, retain=True).wait_for_publish(2)
        self._client.disconnect()
        self._client.loop_stop()
